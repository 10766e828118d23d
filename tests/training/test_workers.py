"""How many workers train, on what: a range, GPUs that are too few, and threads of a trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from fer.classifier.options import TrainConfig
from fer.errors import UserError
from fer.options import parse
from fer.training.launch import keep_device, use_gpu
from fer.training.run import RunFolder
from fer.tuning import trial
from fer.vlm.options import SftConfig


def parsed(*words: str) -> TrainConfig:
    return parse(TrainConfig, ["--data", "faces", *words], "train")


def test_a_range_of_workers_is_the_fewest_and_the_most() -> None:
    config = parsed("--workers", "2..8")
    assert (config.min_workers, config.workers, config.least_workers) == (2, 8, 2)
    assert config.required_cpus == 2 + 1, "of the fewest"
    assert TrainConfig.model_validate(config.model_dump()) == config
    assert parsed("--workers", "8").least_workers == 8


@pytest.mark.parametrize("workers", ["8..2", "0..2", "2..", "two..3"])
def test_a_range_that_is_none_is_refused(workers: str) -> None:
    with pytest.raises(UserError, match="workers"):
        parsed("--workers", workers)


def test_a_vision_language_model_has_a_fixed_number_of_workers() -> None:
    with pytest.raises(UserError, match="divided among a fixed number of workers"):
        parse(SftConfig, ["--data", "faces.json", "--model", "tiny:qwen", "--workers", "1..2"], "sft")


@pytest.mark.parametrize(
    ("gpus", "words", "used"),
    [
        (0, ["--workers", "8"], False),
        (8, ["--workers", "8"], True),
        (4, ["--workers", "4..8"], True),
        (4, ["--workers", "8", "--device", "cpu"], False),
    ],
)
def test_workers_get_a_gpu_each(gpus: int, words: list[str], used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": float(gpus)})
    assert use_gpu(parsed(*words)) is used


@pytest.mark.parametrize("words", [[], ["--device", "gpu"]])
def test_too_few_gpus_are_never_replaced_by_cpus(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 4.0})
    with pytest.raises(UserError, match="has 4 GPUs for 8 workers: use --workers 4, or --device cpu"):
        use_gpu(parsed("--workers", "8", *words))


def test_engines_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 8.0})
    assert use_gpu(parsed("--workers", "4"), engine_gpus=4)
    with pytest.raises(
        UserError, match="8 GPUs for 6 workers, and the engines need 4: use --workers 4, or --device cpu"
    ):
        use_gpu(parsed("--workers", "6"), engine_gpus=4)


def test_a_run_does_not_go_on_without_its_gpus(tmp_path: Path) -> None:
    config = parsed("--storage", str(tmp_path), "--name", "run")
    keep_device(RunFolder(config, "train", "x"), "cpu")
    keep_device(RunFolder(config, "train", "x"), "gpu")
    with pytest.raises(UserError, match="run 'run' has trained on GPUs, and the cluster has none now"):
        keep_device(RunFolder(config, "train", "x"), "cpu")


@pytest.mark.parametrize(("words", "threads"), [([], 8), (["--workers", "2"], 6), (["--cpus-per-worker", "3"], 16)])
def test_a_trial_computes_with_its_part_of_the_node(
    words: list[str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container of 16 CPUs, of which Ray counts 4."""
    monkeypatch.setattr(trial, "cpu_count", lambda: 16)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "a", "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a"))
    assert trial.threads_per_worker(parsed(*words)) == threads
