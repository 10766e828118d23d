"""Rows of a batch that show the same image: the vision encoder and the projector see it once.

The batch has the inputs of each distinct image once, and under ``image_of_row`` the number of each row's image. Inside
the model's forward pass, so that ZeRO-3 has the weights there, the features of the images are computed, and handed to
the rows. Gradients of all rows add up in the image's features.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

IMAGE_OF_ROW = "image_of_row"
"""Model input (N) int64: the number of each row's image."""
ARCHITECTURES = frozenset({"qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3"})
"""Model types of transformers whose features per image are known; the others get an image for each row."""


def share_images(model: nn.Module) -> bool:
    """Let the model accept ``image_of_row``; whether its architecture can."""
    inner = base_model(model)
    if inner.config.model_type not in ARCHITECTURES:
        return False
    inner.model.register_forward_pre_hook(_encode_images, with_kwargs=True)
    return True


def base_model(model: Any) -> Any:
    """The model of transformers, without PEFT around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _encode_images(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
    """Replace the images in the arguments of a model's forward pass by the features of each row's image."""
    rows = kwargs.pop(IMAGE_OF_ROW, None)
    if rows is None:
        return None
    names = inspect.signature(module.get_image_features).parameters
    images = {name: kwargs.pop(name) for name in list(kwargs) if name in names}
    features = module.get_image_features(**images, return_dict=True)
    features.pooler_output = _of_rows(features.pooler_output, rows)
    if "deepstack_features" in features:  # of several layers
        features.deepstack_features = [_of_rows(layer, rows) for layer in features.deepstack_features]
    if "image_grid_thw" in images:  # for the positions of the image's tokens
        kwargs["image_grid_thw"] = images["image_grid_thw"][rows]
    return args, kwargs | {"mm_encoder_outputs": {"image": features}}


def _of_rows(values: Any, rows: Tensor) -> Any:
    """The value of each row's image, of a tensor or sequence with one for each image."""
    return values[rows] if isinstance(values, Tensor) else [values[number] for number in rows.tolist()]
