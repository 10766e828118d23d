"""Resuming in the middle of an epoch, between the data's streams, with one worker in this process."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Checkpoint
from safetensors.torch import load_file

from fer.classifier.model import new_spec
from fer.classifier.options import TrainConfig
from fer.classifier.train import train_classifier
from fer.data.manifest import ShardedDataset
from fer.data.stream import reader, sampler
from fer.labels import SPACES
from fer.registry import WEIGHTS
from fer.tracking import Run, start_run
from fer.training.checkpoint import TrainerState, read_state, write_state
from fer.training.launch import loop_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@dataclass
class TrainedRun:
    """The reports of a run in this process, with a copy of each checkpoint."""

    tracking: Run
    metrics: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)

    def state(self, index: int) -> TrainerState:
        return read_state(self.checkpoints[index])


Train = Callable[..., TrainedRun]


@pytest.fixture
def train(
    make_shards: Callable[..., ShardedDataset],
    make_rows: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Train:
    """Trains on 100 rows in windows of 25, two a stream, in batches of 8, without validation data."""
    monkeypatch.setattr(sampler, "WINDOW_GROUPS", 1)
    monkeypatch.setattr(reader, "WINDOWS_PER_STREAM", 2)
    dataset = make_shards({"train": make_rows(SPACES["rafdb"].labels, 100)}, SPACES["rafdb"], group_rows=25)

    def run(name: str, **options: Any) -> TrainedRun:
        defaults = {"backbone": "test_resnet", "img_size": 32, "batch_size": 8, "mixup": 0.2, "epochs": 2, "lr": 1e-3}
        config = TrainConfig(
            data=dataset.root, storage=str(tmp_path), name=name, checkpoint_every=4, device="cpu", **defaults | options
        )
        trained = TrainedRun(start_run(config, "test", name))

        def report(metrics: dict[str, Any], checkpoint: Checkpoint) -> None:
            copy = tmp_path / name / f"checkpoint_{len(trained.checkpoints)}"
            shutil.copytree(checkpoint.path, copy)
            trained.metrics.append(metrics)
            trained.checkpoints.append(copy)

        spec = new_spec(config, dataset.manifest.space).model_dump()
        train_classifier(loop_settings(config, dataset.root, trained.tracking, spec=spec) | {"report_fn": report})
        return trained

    return run


def test_a_run_continues_where_it_stopped(train: Train, step_losses: Callable[[Run], dict[int, float]]) -> None:
    undisturbed = train("undisturbed")
    assert [undisturbed.state(i).batch for i in range(len(undisturbed.checkpoints))] == [4, 8, 0, 4, 8, 0]
    within = [metrics["score"] for metrics in undisturbed.metrics if "epoch" not in metrics]
    epochs = [metrics["score"] for metrics in undisturbed.metrics if "epoch" in metrics]
    assert max(epochs) < -1, "losses above 1, without validation"
    assert max(within) < min(epochs), "a checkpoint within an epoch is never the best"

    resumed = train("resumed", resume=str(undisturbed.checkpoints[3]))
    weights, again = (load_file(run.checkpoints[-1] / WEIGHTS) for run in (undisturbed, resumed))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    losses, rest = step_losses(undisturbed.tracking), step_losses(resumed.tracking)
    assert list(losses) == list(range(24))
    assert rest == {step: loss for step, loss in losses.items() if step >= 16}
    assert resumed.state(-1).history[1]["train_loss"] == undisturbed.state(-1).history[1]["train_loss"]

    # Two workers took 2 of 6 batches each, which leaves 68 of 100 rows: 8 batches for one.
    checkpoint = undisturbed.checkpoints[0]
    state = replace(read_state(checkpoint), batch=2, total_batches=2, consumed=[(2, 16)], global_step=2, world_size=2)
    write_state(checkpoint, state)
    one = train("one", resume=str(checkpoint), epochs=1)
    assert list(step_losses(one.tracking)) == list(range(2, 10))
    assert one.metrics[-1]["step"] == 12, "as many steps as one worker takes in an epoch"
    assert one.metrics[-1]["lr"] < 1e-6
    assert (one.state(0).global_step, one.state(0).consumed) == (8, [[2, 16], [1, 32]])


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
def test_a_finished_run_is_trained_for_more_epochs_at_the_rates_of_the_longer_run(train: Train, scheduler: str) -> None:
    finished = train("finished", scheduler=scheduler, epochs=1)
    longer = train("longer", scheduler=scheduler, epochs=2, resume=str(finished.checkpoints[-1]))
    assert len(longer.state(-1).history) == 2
    assert finished.metrics[-1]["lr"] < 1e-6
    assert longer.metrics[-1]["lr"] < 1e-6
    weights, after = (load_file(run.checkpoints[-1] / WEIGHTS) for run in (finished, longer))
    moved = max((weights[name] - after[name]).abs().max().item() for name in weights if weights[name].ndim == 4)
    assert moved > 1e-3, "the rate is that of the middle of two epochs, not of the end of one"
