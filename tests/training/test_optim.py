"""Learning rates: a resumed run has those of its own options at its position, as an uninterrupted one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import muon
from torch import nn

from fer.errors import UserError
from fer.training.checkpoint import TrainerState, load_checkpoint, read_state, save_checkpoint
from fer.training.optim import LRSchedule, build_optimizer
from fer.training.options import OptimizerOptions

STEPS_PER_EPOCH = 10


class Training:
    """A linear model with random gradients."""

    def __init__(self, **options: Any) -> None:
        config = OptimizerOptions(**{"epochs": 4, "lr": 0.1, "weight_decay": 0.01, **options})
        torch.manual_seed(0)
        self.model = nn.Linear(6, 4)  # Muon leaves smaller matrices to AdamW
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = LRSchedule(config, self.optimizer, STEPS_PER_EPOCH)
        self.steps = 0

    def run(self, until: int) -> list[float]:
        """Step until the step ``until``; the learning rate before each."""
        rates = []
        while self.steps < until:
            rates.append(self.optimizer.param_groups[0]["lr"])
            torch.manual_seed(self.steps)
            self.model(torch.randn(5, 6)).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.steps += 1
            self.schedule.step(self.steps)
        return rates

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "model.pt")
        save_checkpoint(folder, TrainerState(global_step=self.steps), optimizer=self.optimizer)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        self.steps = load_checkpoint(folder, torch.device("cpu"), self.optimizer).global_step
        self.schedule.restore(self.steps)


@pytest.mark.parametrize("options", [{}, {"scheduler": "onecycle", "max_lr": 0.3}, {"opt": "sgd"}, {"opt": "muon"}])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, options: dict[str, Any]) -> None:
    undisturbed, stopped, resumed = Training(**options), Training(**options), Training(**options)
    rates = undisturbed.run(40)
    assert stopped.run(17) == rates[:17]
    stopped.save(tmp_path)
    resumed.load(tmp_path)
    assert read_state(tmp_path).optimizer == type(stopped.optimizer).__name__
    assert resumed.run(40) == rates[17:]
    assert torch.equal(resumed.model.weight, undisturbed.model.weight)


@pytest.mark.parametrize("options", [{}, {"scheduler": "onecycle"}])
def test_more_epochs_follow_their_own_schedule(tmp_path: Path, options: dict[str, Any]) -> None:
    """A finished run's rate is zero: it must rise to where the longer schedule is, and fall to zero at its end."""
    finished, longer, resumed = Training(**options), Training(epochs=8, **options), Training(epochs=8, **options)
    finished.run(40)
    finished.save(tmp_path)
    resumed.load(tmp_path)
    rates = resumed.run(80)
    assert rates == longer.run(80)[40:]
    assert rates[0] > 0.03
    assert rates[-1] < 0.005
    assert resumed.optimizer.param_groups[0]["lr"] < 1e-6


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.3, 1.0, 5.0])
def test_a_cosine_starts_low_peaks_after_the_warm_up_and_ends_at_zero(warmup_epochs: float) -> None:
    training = Training(warmup_epochs=warmup_epochs)
    rates = training.run(40)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.001 if warmup_epochs else 0.1)
    assert rates.index(max(rates)) == min(warmup_epochs, 2) * 10


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
def test_fewer_epochs_than_were_trained_end_the_schedule(tmp_path: Path, scheduler: str) -> None:
    finished, shorter = Training(scheduler=scheduler), Training(scheduler=scheduler, epochs=2)
    finished.run(40)
    finished.save(tmp_path)
    shorter.load(tmp_path)
    assert shorter.optimizer.param_groups[0]["lr"] < 1e-6


def test_another_learning_rate_and_weight_decay_are_used(tmp_path: Path) -> None:
    first, other = Training(), Training(lr=0.05, weight_decay=0.2)
    first.run(10)
    first.save(tmp_path)
    other.load(tmp_path)
    assert {group["weight_decay"] for group in other.optimizer.param_groups} == {0.0, 0.2}
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.05, rel=0.3)
    assert other.optimizer.state_dict()["state"], "the moments are the checkpoint's"


@pytest.mark.parametrize("name", ["adagrad", "adadelta", "adafactor"])
def test_onecycle_needs_an_optimizer_with_momentum(name: str) -> None:
    Training(opt=name)
    with pytest.raises(UserError, match=f"--opt {name} has none: use --scheduler cosine"):
        Training(opt=name, scheduler="onecycle")


@pytest.mark.parametrize(("name", "expected"), [("adamw", True), ("sgd", True), ("lamb", False)])
def test_fused_optimizers_are_used_where_pytorch_has_them(name: str, expected: bool) -> None:
    optimizer = build_optimizer(OptimizerOptions(opt=name, lr=0.1), nn.Linear(3, 2))
    assert bool(optimizer.defaults.get("fused")) is expected


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_fused_step_is_the_optimizers_step(name: str) -> None:
    """Within rounding, also from a checkpoint that a version without it wrote."""
    weights = []
    for fused in (True, False):
        training = Training(opt=name)
        state = training.optimizer.state_dict()
        for group in state["param_groups"]:
            group["fused"] = fused
        training.optimizer.load_state_dict(state)
        training.run(5)
        weights.append(training.model.weight.detach().clone())
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("shape", [(8, 6), (6, 4, 3, 3)])
def test_muon_takes_steps_in_float32_on_cpus(shape: tuple[int, ...]) -> None:
    """Newton-Schulz in float64 (Jordan et al. 2024) gives the first step: its scale is that of Liu et al. 2025."""
    layer = nn.Linear(6, 8, bias=False) if len(shape) == 2 else nn.Conv2d(4, 6, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(OptimizerOptions(opt="muon", lr=0.1, weight_decay=0), layer)
    layer.weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    gradient = layer.weight.grad.double().flatten(1)
    optimizer.step()

    x = gradient / gradient.norm()
    for a, b, c in muon._COEFFICIENTS["quintic"]:
        product = x @ x.T
        x = a * x + (b * product + c * product @ product) @ x
    step = 0.1 * 0.2 * max(x.shape) ** 0.5 * x
    torch.testing.assert_close((before - layer.weight).double().flatten(1), step, rtol=1e-4, atol=1e-5)
