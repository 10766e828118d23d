"""What a checkpoint of one configuration becomes in another: a moving average that begins, a loss scale that is new."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer.classifier.model import new_spec
from fer.classifier.model_state import ModelState
from fer.classifier.options import TrainConfig
from fer.labels import SPACES
from fer.training.checkpoint import TrainerState


def model_state(seed: int, dtype: torch.dtype | None = None, **options: Any) -> ModelState:
    torch.manual_seed(seed)
    config = TrainConfig(data="d", backbone="test_resnet", img_size=32, **options)
    return ModelState(config, new_spec(config, SPACES["rafdb"]), torch.device("cpu"), dtype, steps_per_epoch=10)


def take_step(state: ModelState, number: int) -> None:
    loss = state.raw(torch.randn(2, 3, 32, 32)).logits.square().mean()
    state.scaler.scale(loss).backward()
    state.step(number)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_moving_average_starts_from_the_weights_of_a_checkpoint_without_one(tmp_path: Path) -> None:
    trained, resumed = model_state(0), model_state(1, ema=0.999)
    take_step(trained, 1)
    trained.save(tmp_path, TrainerState(global_step=1))
    resumed.load(tmp_path)
    assert same(trained.raw.state_dict(), resumed.raw.state_dict())
    assert same(trained.raw.state_dict(), resumed.eval_model.state_dict())


def test_training_without_a_moving_average_continues_from_the_weights_not_from_the_average(tmp_path: Path) -> None:
    trained, resumed = model_state(0, ema=0.5), model_state(1)
    for number in (1, 2, 3):
        take_step(trained, number)
    trained.save(tmp_path, TrainerState(global_step=3))
    resumed.load(tmp_path)
    assert not same(trained.raw.state_dict(), trained.eval_model.state_dict())
    assert same(trained.raw.state_dict(), resumed.raw.state_dict())


def test_a_bfloat16_checkpoint_is_resumed_in_float16_and_back(tmp_path: Path) -> None:
    bfloat16, float16 = model_state(0, torch.bfloat16), model_state(1, torch.float16)
    bfloat16.save(tmp_path / "bf16", TrainerState())
    float16.load(tmp_path / "bf16")
    assert float16.scaler.get_scale() == 2.0**16
    take_step(float16, 1)
    float16.scaler.update(4.0)
    float16.save(tmp_path / "fp16", TrainerState())
    bfloat16.load(tmp_path / "fp16")
    again = model_state(2, torch.float16)
    again.load(tmp_path / "fp16")
    assert again.scaler.get_scale() == 4.0
