"""Training on a real Ray: exact resume after a kill, the same losses from the same seed, and every head."""

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ray.train import Result
from safetensors.torch import load_file, save_file

from cluster.logs import log_file
from fer.classifier.data_loader import FaceDataLoader
from fer.classifier.export.model import training_history
from fer.classifier.model import build_model, load_model, new_spec
from fer.classifier.options import TrainConfig
from fer.classifier.preprocess import normalize
from fer.classifier.pretrained import share_pretrained
from fer.classifier.train import train_classifier
from fer.classifier.validation import ValidationMetrics
from fer.data.manifest import ShardedDataset
from fer.models.device import amp_dtype
from fer.registry import WEIGHTS
from fer.tracking import Run, start_run
from fer.training.checkpoint import read_state
from fer.training.launch import launch, loop_settings
from fer.training.run import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

EPOCHS = 4
PRETRAINED = "pretrained.safetensors"
StepLosses = Callable[[Run], dict[int, float]]
SameRun = Callable[[tuple[Result, Run], tuple[Result, Run]], None]
Kill = Callable[[Path, Callable[[dict[str, Any]], bool], list[int]], threading.Thread]

MODEL = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "drop_rate": 0.1}


def run_training(
    shards: Path, out: Path, name: str, loop: Callable[[dict[str, Any]], None] = train_classifier, **options: Any
) -> tuple[Result, Run]:
    """What `fer train` does, without the command line: the last result and the MLflow run."""
    settings = {
        "backbone": "resnet18",
        "model_kwargs": MODEL | {"checkpoint_path": str(out / PRETRAINED)},
        "img_size": 48,
        "epochs": EPOCHS,
        "batch_size": 16,
        "grad_accum_steps": 2,
        "mixup": 0.2,
        "cutmix": 0.5,
        "random_erasing": 0.25,
        "workers": 2,
        "checkpoint_every": 3,
        "ema": 0.9,
        "device": "cpu",
    }
    config = TrainConfig(data=str(shards), storage=str(out), name=name, **{**settings, **options})
    dataset = ShardedDataset(config.data)
    run = RunFolder(config, "train", "x")
    tracking = start_run(config, "test", name, run.record.get("mlflow_run_id"))
    run.update(mlflow_run_id=tracking.run_id)
    spec = new_spec(config, dataset.manifest.space)
    pretrained = share_pretrained(config, build_model(spec, pretrained=True))
    settings = loop_settings(config, dataset.root, tracking, spec=spec.model_dump(), pretrained=pretrained)
    return launch(loop, settings, config, run), tracking


def final_weights(result: Result) -> dict[str, Any]:
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        return load_file(Path(folder) / WEIGHTS)


def trainer_state(result: Result) -> dict[str, Any]:
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        return json.loads((Path(folder) / "trainer_state.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(11)
    save_file(timm.create_model("resnet18", num_classes=0, **MODEL).state_dict(), folder / PRETRAINED)
    return folder


@pytest.fixture(scope="module")
def undisturbed(small_shards: Path, out: Path, ray_cluster: None) -> tuple[Result, Run]:
    """A run whose workers write what they start from, and the epoch and loss of each of their batches, to files."""

    def recording_loop(settings: dict[str, Any]) -> None:
        from fer.classifier.train import ClassifierTrainer, train_classifier

        forward_backward = ClassifierTrainer.forward_backward

        def record(self: ClassifierTrainer, *arguments: Any) -> torch.Tensor:
            with (out / f"worker-{self.worker.rank}").open("a") as file:
                if (self.state.epoch, self.state.batch) == (0, 0):
                    file.write(f"{self.model_state.raw.backbone.conv1.weight.double().sum().item()}\n")
                loss = forward_backward(self, *arguments)
                file.write(f"{self.state.epoch} {loss.item()}\n")
            return loss

        ClassifierTrainer.forward_backward = record  # type: ignore[method-assign]
        train_classifier(settings)

    return run_training(small_shards, out, "undisturbed", recording_loop)


@pytest.fixture(scope="module")
def assert_same_run(step_losses: StepLosses) -> SameRun:
    return partial(_assert_same_run, step_losses)


def _assert_same_run(step_losses: StepLosses, one: tuple[Result, Run], other: tuple[Result, Run]) -> None:
    assert trainer_state(one[0])["global_step"] == trainer_state(other[0])["global_step"]
    losses, again = step_losses(one[1]), step_losses(other[1])
    assert losses.keys() == again.keys()
    assert losses == again
    weights, same = final_weights(one[0]), final_weights(other[0])
    assert all((weights[name] == same[name]).all() for name in weights)


def test_the_run_counts_its_steps(undisturbed: tuple[Result, Run], small_shards: Path, step_losses: StepLosses) -> None:
    rows = ShardedDataset(str(small_shards)).split("train").rows
    batches = rows // 2 // 16
    state = trainer_state(undisturbed[0])
    assert state["global_step"] == EPOCHS * -(-batches // 2)
    assert state["epoch"] == EPOCHS
    assert len(training_history(undisturbed[0])) == EPOCHS
    assert len(step_losses(undisturbed[1])) == EPOCHS * batches


def test_all_workers_start_from_the_pretrained_weights(undisturbed: tuple[Result, Run], out: Path) -> None:
    expected = load_file(out / PRETRAINED)["conv1.weight"].double().sum().item()
    for rank in range(2):
        assert float((out / f"worker-{rank}").read_text().splitlines()[0]) == expected


def test_the_training_loss_is_that_of_all_workers(
    undisturbed: tuple[Result, Run], out: Path, step_losses: StepLosses
) -> None:
    records = [[line.split() for line in (out / f"worker-{rank}").read_text().splitlines()[1:]] for rank in range(2)]
    losses = [[float(loss) for _, loss in record] for record in records]
    assert losses[0] != losses[1]
    means = [sum(pair) / 2 for pair in zip(*losses, strict=True)]
    assert list(step_losses(undisturbed[1]).values()) == pytest.approx(means)
    for number, epoch in enumerate(training_history(undisturbed[0])):
        of_epoch = [mean for mean, (each, _) in zip(means, records[0], strict=True) if int(each) == number]
        assert epoch["train_loss"] == pytest.approx(sum(of_epoch) / len(of_epoch))


def test_validation_covers_the_rows_of_all_workers_with_the_weights_of_the_checkpoint(
    undisturbed: tuple[Result, Run], small_shards: Path
) -> None:
    assert undisturbed[0].checkpoint is not None
    with undisturbed[0].checkpoint.as_directory() as folder:
        model, spec = load_model(Path(folder))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device, dtype = torch.device("cpu"), amp_dtype(torch.device("cpu"))
    metrics = ValidationMetrics(spec, device)
    dataset, config = ShardedDataset(str(small_shards)), TrainConfig(data=str(small_shards), batch_size=16)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        for rank in range(2):
            for batch in FaceDataLoader(dataset, config, spec, rank=rank, world_size=2).val_batches():
                metrics.update(model(normalize(batch["pixels"], spec)), batch)
    alone, together = metrics.compute(), training_history(undisturbed[0])[-1]
    for name in ("val_accuracy", "val_macro_f1", "val_uar", "val_loss"):
        assert together[name] == pytest.approx(alone[name], abs=1e-5), name
    assert spec.reference
    assert sum(spec.reference.labels) == sum(spec.reference.confidence) == dataset.split("val").rows


def test_the_messages_of_controller_and_workers_are_in_the_log(undisturbed: tuple[Result, Run]) -> None:
    log = log_file()
    assert log is not None
    text = log.read_text()
    assert "Started training worker group of size 2" in text
    assert text.count("INFO ray.train.torch.config: Setting up process group") >= 1
    assert "WARNING ray.data._internal.progress: Progress bars disabled" in text


def test_the_last_epoch_can_be_the_model(small_shards: Path, out: Path) -> None:
    result, _ = run_training(small_shards, out, "last", keep="last", epochs=3, lr=1e-9)
    scores = [epoch["val_score"] for epoch in training_history(result)]
    assert scores.index(max(scores)) < 2, "the weights hardly change: an earlier epoch validates as well"
    kept = result.get_best_checkpoint("score", mode="max")
    assert kept is not None
    assert read_state(Path(kept.path)).epoch == 3


@pytest.mark.faults
def test_killed_workers_and_a_second_command_change_nothing(
    undisturbed: tuple[Result, Run], small_shards: Path, out: Path, kill_worker_when: Kill, assert_same_run: SameRun
) -> None:
    """A worker is killed in the second epoch, and the run goes on; in the third, and it ends. Its name continues it."""
    killed: list[int] = []
    watchers = [
        kill_worker_when(out / "killed", lambda state: state["epoch"] == 1 and state["batch"] > 0, killed),
        kill_worker_when(out / "killed", lambda state: state["epoch"] >= 2 and state["batch"] > 0, killed),
    ]
    with pytest.raises(Exception, match=r"(?i)worker|actor|died"):
        run_training(small_shards, out, "killed", max_failures=1)
    for watcher in watchers:
        watcher.join()
    assert len(killed) == 2
    assert_same_run(undisturbed, run_training(small_shards, out, "killed", max_failures=1))
