"""DeepSpeed ZeRO (Rajbhandari et al., 2020): named configurations, the engine, and its sharded checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer.errors import UserError

CONFIGS = Path(__file__).parent / "deepspeed_configs"
TAG = "zero"
"""DeepSpeed's subfolder of a checkpoint: one file for the weights, and one per worker for its optimizer shard."""


def load_deepspeed_config(
    name: str,
    *,
    batch_size: int = 1,
    grad_accum_steps: int = 1,
    clip_grad: float = 1.0,
    bf16: bool = True,
    lr: float = 0.0,
    weight_decay: float = 0.0,
) -> dict[str, Any]:
    """A configuration of this package by name, or a JSON file; "auto" values are filled in from the arguments.

    Raises UserError for an unknown configuration, or an "auto" that no argument has a value for.
    """
    path = CONFIGS / f"{name}.json"
    if not path.is_file():
        path = Path(name)
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        known = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.json")))
        raise UserError(f"--deepspeed: no configuration {name!r} (available: {known}) and no such file") from None
    except ValueError as error:
        raise UserError(f"--deepspeed {name} is not JSON: {error}") from None
    if not isinstance(config, dict) or not {"optimizer", "zero_optimization"} <= config.keys():
        raise UserError(f'--deepspeed {name} lacks "optimizer" or "zero_optimization": start from one of {CONFIGS}')
    values = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": grad_accum_steps,
        "gradient_clipping": clip_grad,
        "enabled": bf16,
        "lr": lr,
        "weight_decay": weight_decay,
    }
    return _fill(config, values, name)


def _fill(config: dict[str, Any], values: dict[str, Any], name: str) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            value = _fill(value, values, name)
        elif value == "auto":
            if key not in values:
                raise UserError(f'--deepspeed {name}: "auto" is not supported for {key!r}; give a value')
            value = values[key]
        filled[key] = value
    return filled


def init_engine(
    model: nn.Module, config: dict[str, Any], schedule: Callable[[torch.optim.Optimizer], Any], device: torch.device
) -> Any:
    """This worker's DeepSpeed engine, in Ray Train's process group."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed import ops

    if device.type == "cpu":
        # DeepSpeed's shared-memory all-reduce takes minutes to compile on first use; gloo needs no build.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo" if device.type == "cpu" else "nccl", auto_mpi_discovery=False)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=_param_groups(model, config["optimizer"]["params"].get("weight_decay", 0.0)),
        config=config,
        lr_scheduler=schedule,
    )
    return engine


def _param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters, in two groups: biases and normalisation (vectors) have no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def save_engine_state(engine: Any, folder: Path, adapters_only: bool) -> None:
    """Write this worker's shard of the training state. Collective: every worker must call it."""
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=adapters_only)


def load_engine_state(engine: Any, folder: Path, adapters_only: bool) -> None:
    """Restore weights, optimizer and schedule, on as many workers as saved them (`fer.vlm.reshard` has no such limit).

    Collective.
    """
    with weights_only_loading():
        path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not adapters_only)
    assert path is not None, f"{folder} holds a checkpoint of DeepSpeed"


@contextmanager
def weights_only_loading() -> Iterator[None]:
    """Within this context, DeepSpeed's torch.load calls unpickle tensors and plain data only, not arbitrary code."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def full_state_dict(engine: Any) -> dict[str, torch.Tensor] | None:
    """The model's weights, gathered on rank 0 if ZeRO-3 partitions them. Collective: every worker must call it."""
    if engine.zero_optimization_stage() == 3:
        return engine._zero3_consolidated_16bit_state_dict()
    return engine.module.state_dict()
