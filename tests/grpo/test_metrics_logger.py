"""Metrics of a step, against values computed by hand, and the page of completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fer.grpo.batch import make_batches
from fer.grpo.groups import make_rows, score_group
from fer.grpo.loss import PolicyLoss
from fer.grpo.metrics_logger import MetricsLogger
from fer.grpo.options import GrpoConfig
from fer.grpo.rewards import RewardInput, RewardScorer
from fer.grpo.rollout import EngineStats
from fer.grpo.step import Step
from fer.training.checkpoint import TrainerState
from fer.training.worker import Worker
from tests.fixtures.grpo import make_example, make_output


def broken(completion: RewardInput) -> float:
    raise RuntimeError("a bug")


class RecordingRun:
    """In place of an MLflow run."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.pages: dict[str, str] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics = metrics

    def log_artifacts(self, folder: Path, path: str) -> None:
        self.pages |= {f"{path}/{file.name}": file.read_text() for file in folder.iterdir()}


def make_logger(run: Any, *, peak_flops: float | None = None, parts: tuple[str, ...] = ("accuracy",)) -> MetricsLogger:
    worker, config = Worker(0, 1, torch.device("cpu")), GrpoConfig(data="x")
    return MetricsLogger(config, worker, run, parts, total_steps=9, total_batches=9, peak_flops=peak_flops)


def test_metrics_of_a_step(process_group: None, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = RewardScorer({"accuracy": 1.0})
    mixed = score_group(make_example(3), make_output(4, 2, weight_version=6), scorer, 10)
    equal = score_group(make_example(3), make_output(1, 1, text="<answer>happy</answer>", weight_version=7), scorer, 10)
    step = Step(global_step=7)
    step.groups, step.num_tokens, step.flops = [mixed, equal], 20, 100.0
    step.engine_stats, step.sync_logprob_diff = EngineStats(seconds=2.0, tokens=30), 0.25
    with step.phase("update"):
        pass
    step.phase_seconds["update"] = 4.0
    [batch] = make_batches(make_rows([mixed], True), 2, 0)
    weights = torch.where(batch.mask, 2.0, 0.0)
    outcome = PolicyLoss(torch.tensor(0.5), clipped=torch.tensor(3), kl=torch.tensor(1.2))
    entropy = torch.full(batch.mask.shape, 0.7)
    step.add_batch(batch, batch.engine_logprobs + 0.1, entropy, batch.mask, weights, outcome, importance_cap=2.0)

    run, state = RecordingRun(), TrainerState(global_step=8, batch=3)
    make_logger(run, peak_flops=50.0).log_step(step, state)
    expected = {
        "loss": 0.5,
        "reward/mean": 0.75,
        "reward/std": 0.1875**0.5,
        "reward/accuracy/mean": 0.75,
        "reward/errors": 0.0,
        "frac_zero_std": 0.5,
        "completions/mean_length": 2.0,
        "completions/clipped": 0.0,
        "kl": 0.2,
        "clip_ratio": 0.5,
        "entropy": 0.7,
        "logprob_diff": 0.1,
        "importance/mean": 2.0,
        "importance/max": 2.0,
        "importance/capped": 1.0,
        "staleness": 0.75,
        "staleness_max": 1.0,
        "time/update": 4.0,
        "time/generate": 2.0,
        "throughput/generated_tokens": 15.0,
        "sync_logprob_diff": 0.25,
        "mfu": 0.5,
    }
    assert {name: run.metrics[name] for name in expected} == pytest.approx(expected)
    assert run.metrics["throughput/completions"] == pytest.approx(4 / run.metrics["time/step"])
    [entry] = state.history
    assert entry["step"] == 8
    assert entry["reward/accuracy/mean"] == 0.75
    assert "step 8/9  reward 0.750  zero std 50%  length 2  kl 0.2000  entropy 0.70" in capsys.readouterr().out


def test_errors_of_reward_functions_are_counted_and_printed_once(
    process_group: None, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{__name__}:broken"
    group = score_group(make_example(3), make_output(2, 1), RewardScorer({name: 1.0}), 10)
    run = RecordingRun()
    logger = make_logger(run, parts=(name,))
    for _ in range(2):
        step = Step(global_step=0)
        step.groups = [group]
        logger.log_step(step, TrainerState())
    assert run.metrics["reward/errors"] == 2
    assert capsys.readouterr().out.count("RuntimeError: a bug") == 1


def test_page_of_completions() -> None:
    scorer = RewardScorer({"accuracy": 1.0})
    group = score_group(make_example(3), make_output(2, 1, text="<b>"), scorer, 10)
    run = RecordingRun()
    make_logger(run).log_completions([group], global_step=40)
    page = run.pages["completions/step-000040.html"]
    assert "data:image/jpeg" in page
    assert "&lt;answer&gt;happy&lt;/answer&gt;" in page, "escaped"
    assert '<td class="number">1.00</td>' in page
