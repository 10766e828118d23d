"""What training does with the learning-rate schedule of a run that resumes."""

from __future__ import annotations

import warnings

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from fer.vlm.base_trainer import skip_steps
from fer.vlm.options import SftConfig


@pytest.mark.parametrize("name", ["cosine", "linear", "constant_with_warmup"])
@pytest.mark.parametrize("steps", [1, 3, 17])
def test_a_schedule_continues_where_it_was(name: str, steps: int) -> None:
    def start() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        return optimizer, get_scheduler(name, optimizer, 5, 20)

    optimizer, schedule = start()
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed_optimizer, resumed = start()
        skip_steps(resumed, steps)
    for _ in range(2):
        assert resumed.get_last_lr() == pytest.approx(schedule.get_last_lr())
        assert resumed_optimizer.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        for each, rate in ((optimizer, schedule), (resumed_optimizer, resumed)):
            each.step()
            rate.step()


def test_adapters_are_saved_with_their_optimizer() -> None:
    with pytest.raises(ValidationError, match="--save-only-model"):
        SftConfig(data="x", lora="lora", save_only_model=True)
