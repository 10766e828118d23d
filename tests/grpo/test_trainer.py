"""`fer grpo` with Ray, DeepSpeed and vLLM: two trainers and one engine, undisturbed, and with every process killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.ferbench.options import FerbenchRunConfig
from fer.grpo.evaluation import SCORE
from fer.grpo.options import GrpoConfig
from fer.grpo.trainer import GrpoTrainer
from fer.options import parse
from fer.training.checkpoint import NO_SCORE, TrainerState
from jobs import grpo as job

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

COMMON = {
    "train": ["vision", "projector", "language"],
    "precision": "fp32",
    "device": "cpu",
    "workers": 2,
    "prompts_per_step": 4,
    "num_generations": 4,
    "batch_size": 4,
    "lr": 1e-3,
    "image_size": 28,
    "max_prompt_tokens": 160,
    "max_new_tokens": 32,
    "grad_checkpointing": False,
}


@pytest.fixture(scope="module")
def few_questions(questions_file: Path, face_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    """Two thirds of the questions: enough batches for three kills."""
    folder = tmp_path_factory.mktemp("few")
    lines = questions_file.read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(line for number, line in enumerate(lines) if number % 3))
    return prepare(
        PrepareOptions(
            data=str(folder / "few.jsonl"), format="vqa", image_root=str(face_folder), out=str(folder / "shards"),
            val_split=0.2,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    few_questions: ShardedDataset,
    sft_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_cluster: None,
) -> Path:
    """A run with ZeRO-3, DAPO's loss and a reference model; its folder."""
    out = tmp_path_factory.mktemp("grpo")
    config = GrpoConfig(
        data=few_questions.root,
        model=str(sft_model),
        storage=str(out),
        name="undisturbed",
        deepspeed="zero3",
        loss="dapo",
        beta=0.04,
        dynamic_sampling_batches=1,
        check_sync_every=2,
        log_completions_every=4,
        eval_steps=3,
        eval_rows=6,
        **COMMON,  # type: ignore[arg-type]
    )
    job.main(config)
    return out / "undisturbed"


def metrics(run: Path) -> dict[str, list[float]]:
    """Every metric of a run, in the order of its steps."""
    record = json.loads((run / "run.json").read_text())
    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    names = client.get_run(record["mlflow_run_id"]).data.metrics
    return {name: [point.value for point in client.get_metric_history(record["mlflow_run_id"], name)] for name in names}


def test_every_step_is_logged(undisturbed: Path, few_questions: ShardedDataset) -> None:
    logged = metrics(undisturbed)
    history = json.loads((undisturbed / "history.json").read_text())
    steps = len(history)
    batches = few_questions.split("train").rows // 4
    assert [entry["step"] for entry in history] == list(range(1, steps + 1))
    assert batches / 2 <= steps <= batches
    for name in (
        *("reward/mean", "reward/std", "reward/format/mean", "reward/accuracy/mean", "frac_zero_std"),
        *("completions/mean_length", "completions/clipped", "kl", "clip_ratio", "importance/mean", "time/step"),
    ):
        assert len(logged[name]) == steps, name
    for phase in ("wait", "reward", "update", "sync", "check_sync"):
        assert len(logged[f"time/{phase}"]) == steps
    assert max(logged["kl"]) > 0, "the policy moves away from the reference model"
    assert min(logged["entropy"]) > 0
    assert max(logged["staleness"]) == 0, "on-policy"
    assert max(logged["logprob_diff"]) < 1e-3, "engine and trainer compute the same probabilities"
    assert max(logged["throughput/generated_tokens"]) > 0


def test_the_engine_has_the_weights_at_each_check(undisturbed: Path) -> None:
    differences = metrics(undisturbed)["sync_logprob_diff"]
    assert len(differences) >= 3
    assert max(differences) < 1e-4


def test_evaluations_keep_the_best_checkpoint_with_its_model(undisturbed: Path) -> None:
    steps = len(json.loads((undisturbed / "history.json").read_text()))
    logged = metrics(undisturbed)
    accuracies = logged["eval/accuracy"]
    assert len(accuracies) == len({*range(3, steps + 1, 3), steps}), "every three steps, and at the end"
    assert all(round(6 * value, 6).is_integer() for value in accuracies), "of six questions, each counted once"
    assert len(logged["eval/well_formed"]) == len(logged["time/eval"]) == len(accuracies)
    at = [*range(3, steps, 3), steps]
    best = {step for step, accuracy in zip(at, accuracies, strict=True) if accuracy == max(accuracies)}
    files = list(undisturbed.glob("checkpoint_*/trainer_state.json"))
    kept = {json.loads(file.read_text())["global_step"] for file in files}
    assert steps in kept, "the latest"
    assert kept & best
    assert all((file.parent / "model/model.safetensors").is_file() for file in files)


def test_of_equal_accuracies_the_one_saved_with_its_model_is_the_best() -> None:
    trainer: Any = object.__new__(GrpoTrainer)
    trainer.config = GrpoConfig(data="x", eval_steps=50, checkpoint_every=50)
    saved = []
    trainer.save_checkpoint = lambda metrics, with_model: saved.append((metrics[SCORE], with_model))
    for step, accuracy in ((50, 0.5), (100, 0.5), (150, 0.75), (200, 0.75)):
        trainer.state = TrainerState(global_step=step, best_score=trainer.state.best_score if step > 50 else None)

        def evaluate(accuracy: float = accuracy) -> float:
            trainer.state.best_score = max(accuracy, trainer.state.best_score or 0.0)
            return accuracy

        trainer.evaluate = evaluate
        trainer.evaluate_and_save(is_new_epoch=False)
    assert saved == [(0.5, True), (NO_SCORE, False), (0.75, True), (NO_SCORE, False)]


def test_outputs(undisturbed: Path, sft_model: Path) -> None:
    [page, *_] = sorted(undisturbed.parent.rglob("completions/step-*.html"))
    assert "data:image/jpeg" in page.read_text()
    assert (undisturbed / "training_curves.png").stat().st_size > 10_000
    before, after = (load_file(folder / "model.safetensors") for folder in (sft_model, undisturbed / "model"))
    assert before.keys() == after.keys()
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)
    assert "reward/format/mean" in (undisturbed / "model/README.md").read_text()


def children(driver: int, name: str = "") -> list[psutil.Process]:
    """The driver's processes whose command line contains ``name``."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def steps_saved(run: Path) -> int:
    """Step of the newest complete checkpoint."""
    found = [0]
    for file in run.glob("checkpoint_*/trainer_state.json"):
        with suppress(ValueError):  # it is being written
            found.append(json.loads(file.read_text())["global_step"])
    return max(found)


@pytest.mark.faults
def test_engine_trainer_and_driver_are_killed(
    few_questions: ShardedDataset,
    sft_model: Path,
    tmp_path: Path,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Adapters, asynchronous rollouts. Each of the three is killed once; in the end every rollout batch counts once.

    The first driver has a Ray of its own, which ends with it. The second one is this process.
    """
    run, log = tmp_path / "runs/killed", tmp_path / "log"
    settings = COMMON | {
        "data": few_questions.root,
        "model": str(sft_model),
        "storage": str(tmp_path / "runs"),
        "name": "killed",
        "lora": "lora",
        "beta": 0.04,
        "async_level": 2,
        "partial_rollouts": True,
        "checkpoint_every": 2,
        "check_sync_every": 1,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    arguments = ["--config", str(tmp_path / "config.yaml")]
    command = [sys.executable, "-m", "jobs.grpo", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment)
    wait_for(lambda: steps_saved(run) >= 2, 240, log)
    [engine] = children(first.pid, "ray::RolloutEngine")
    engine.send_signal(signal.SIGKILL)
    at = steps_saved(run)
    wait_for(lambda: steps_saved(run) >= at + 2, 240, log)
    assert "recovered from an engine failure" in log.read_text()
    children(first.pid, "ray::RayTrainWorker")[0].send_signal(signal.SIGKILL)
    at = steps_saved(run)
    wait_for(lambda: steps_saved(run) >= at + 2, 240, log)
    for process in [*children(first.pid), psutil.Process(first.pid)]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    first.wait()
    saved = steps_saved(run)
    batches = few_questions.split("train").rows // 4
    assert 0 < saved < batches, "it was killed before the end"

    job.main(parse(GrpoConfig, arguments, "grpo"))
    history = json.loads((run / "history.json").read_text())
    assert [entry["step"] for entry in history] == list(range(1, batches + 1))
    assert max(metrics(run)["staleness_max"]) == 2, "rollouts are up to two steps old"
    assert max(metrics(run)["sync_logprob_diff"]) < 1e-4
    assert (run / "model/adapter_model.safetensors").is_file()
    [words] = re.findall(r"^Next: +fer ferbench run (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert parse(FerbenchRunConfig, shlex.split(words), "ferbench run").model == str(run / "model")
