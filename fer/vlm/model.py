"""Loading image-text models, and selecting their trainable weights: parts of the model, or low-rank adapters."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer.errors import UserError
from fer.registry import resolve_model
from fer.storage import fetch_folder, get_filesystem, is_uri, upload_folder
from fer.tracking import TrackingOptions
from fer.vlm.options import LoraOptions, VlmModelOptions
from fer.vlm.tiny import PREFIX, build_tiny

# transformers has no common names for the parts; these patterns cover Qwen-VL, SmolVLM/Idefics, LLaVA, Gemma, Phi-4.
_PROJECTOR = re.compile(r"merger|connector|projector|projection|aligner|mlp1|img_projection")
_VISION = re.compile(r"\bvisual\b|vision|image_encoder|image_embed")

CONFIG_FILES = ("config.json", "adapter_config.json")
"""Of a model and of an adapter."""

HUB_TIMEOUT = 10
"""Seconds to wait for the hub's first response."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def part_of(name: str) -> str:
    """The part (vision, projector or language) that a parameter or module belongs to, by its qualified name."""
    if _PROJECTOR.search(name):
        return "projector"
    return "vision" if _VISION.search(name) else "language"


def resolve_vlm(name: str, tracking: TrackingOptions) -> str:
    """The folder of a model on this host, or its hub name unchanged.

    Registered models and URIs are downloaded, tiny models are created. Raises UserError for a URI without a model.
    """
    if name.startswith(PREFIX):
        return str(_tiny_folder(name.removeprefix(PREFIX), f"{tracking.storage.rstrip('/')}/tiny"))
    if name.startswith(("models:/", "runs:/")):
        return str(resolve_model(name, tracking))
    if is_uri(name):
        found = find_folder(name)
        if found is None:
            raise UserError(f"no model at {name}: neither there nor in {name.rstrip('/')}/model is a {CONFIG_FILES[0]}")
        return str(fetch_folder(found))
    for folder in (Path(name), Path(name) / "model", Path(tracking.storage) / name / "model"):
        if any((folder / file).is_file() for file in CONFIG_FILES):
            return str(folder.absolute())
    return name


def _tiny_folder(name: str, storage: str) -> Path:
    """The folder of a tiny model on this host. Who needs it first creates it in ``storage``, a path or URI."""
    if not is_uri(storage):
        return build_tiny(name, Path(storage).absolute())
    filesystem, path = get_filesystem(f"{storage}/{name}")
    if not filesystem.isfile(f"{path}/{CONFIG_FILES[0]}"):
        with tempfile.TemporaryDirectory() as scratch:
            upload_folder(build_tiny(name, Path(scratch)), f"{storage}/{name}")
    return fetch_folder(f"{storage}/{name}")


def find_folder(uri: str) -> str | None:
    """The URI of a vision-language model or run, as that of the model's folder; None if it has none."""
    for folder in (uri, f"{uri.rstrip('/')}/model"):
        filesystem, path = get_filesystem(folder)
        if any(filesystem.isfile(f"{path}/{file}") for file in CONFIG_FILES):
            return folder
    return None


def for_workers(name: str, folder: str) -> str:
    """What the workers pass to `resolve_vlm` for a model that is in ``folder`` on this host.

    It is the model's name if each host can get the model by it: a host may not see another one's folders.
    """
    by_name = is_uri(name) or name.startswith((PREFIX, "models:/", "runs:/"))
    return name if by_name else folder


def load_processor(name: str, trust_remote_code: bool = False) -> Any:
    """A model's processor. Raises UserError if it can't be loaded or has no chat template."""
    from transformers import AutoProcessor

    processor = _load(AutoProcessor, name, trust_remote_code=trust_remote_code)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UserError(f"{name} has no processor for images and text: it is not a vision-language model")
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise UserError(f"{name} has no chat template: use the instruction-tuned model of its family")
    return processor


def load_config(name: str, trust_remote_code: bool = False) -> Any:
    """A model's configuration, without weights. Raises UserError if it can't be loaded."""
    from transformers import AutoConfig

    config, adapter = (Path(name, file).is_file() for file in CONFIG_FILES)
    if adapter and not config:
        raise UserError(f"{name} is an adapter: merge it into its model with `fer merge --adapter {name} --out FOLDER`")
    return _load(AutoConfig, name, trust_remote_code=trust_remote_code)


def load_model(name: str, options: VlmModelOptions) -> nn.Module:
    """An image-text model with its weights. Raises UserError if it can't be loaded."""
    from transformers import AutoModelForMultimodalLM

    attention = options.attention
    has_flash = importlib.util.find_spec("flash_attn") is not None
    if attention == "auto":
        attention = "flash_attention_2" if has_flash else "sdpa"
    if attention == "flash_attention_2" and not has_flash:
        raise UserError("--attention flash_attention_2: the package flash-attn is not installed; use --attention auto")
    return _load(
        AutoModelForMultimodalLM,
        name,
        dtype=DTYPES[options.precision],
        attn_implementation=attention,
        trust_remote_code=options.trust_remote_code,
    )


def _load(loader: Any, name: str, **arguments: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT asks for it
    if not Path(name).is_dir():
        _check_available(name)
    try:
        return loader.from_pretrained(name, **arguments)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{name} can't be loaded: {str(error).splitlines()[0]}") from None


def _check_available(name: str) -> None:
    """Raise UserError unless the hub or its local cache has the model; loading it would retry for minutes."""
    from huggingface_hub import model_info, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        model_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # from several libraries: invalid name, no connection, no such model, no access
        raise UserError(
            f"no model {name!r}: no such folder, and it can't be fetched from the Hugging Face hub "
            f"({str(error).splitlines()[0]}); give the path of a downloaded folder, or tiny:qwen2.5-vl for a random "
            "tiny model"
        ) from None


def set_trainable(model: nn.Module, options: VlmModelOptions, lora: LoraOptions) -> nn.Module:
    """Freeze all weights but those of the parts in ``options.train``, or but new adapters of their linear layers."""
    if lora.lora == "off":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in options.train)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"--train {','.join(options.train)}: this model has no such weights")
        return model
    from peft import LoraConfig, get_peft_model

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and part_of(name) in options.train and not name.endswith("lm_head")
    ]
    if not targets:
        raise UserError(f"--train {','.join(options.train)}: this model has no such linear layers for adapters")
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=lora.lora_rank,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            use_dora=lora.lora == "dora",
            target_modules=targets,
        ),
        autocast_adapter_dtype=False,  # one dtype for all: DeepSpeed keeps fp32 master weights of what is trained
    )
    return adapted


def prepare_for_training(model: nn.Module, grad_checkpointing: bool) -> nn.Module:
    """Disable the key-value cache, and enable gradient checkpointing if asked.

    The model is in training mode then: models are loaded in evaluation mode, in which nothing is recomputed.
    """
    model.train()
    model.config.use_cache = False  # type: ignore[union-attr]
    if grad_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        if hasattr(model, "enable_input_require_grads"):
            model.enable_input_require_grads()  # type: ignore[operator]
    return model


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of each part, and the trainable ones. Counts full sizes where ZeRO-3 partitions parameters."""
    counts = {"vision": 0, "projector": 0, "language": 0, "trainable": 0}
    for name, parameter in model.named_parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())
        counts[part_of(name)] += size
        counts["trainable"] += size if parameter.requires_grad else 0
    return counts
