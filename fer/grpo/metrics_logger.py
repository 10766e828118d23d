"""Logging of a run: metrics of each step to MLflow and the console, and pages of sampled completions."""

from __future__ import annotations

import base64
import io
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fer.grpo.groups import RolloutGroup
from fer.grpo.options import GrpoConfig
from fer.grpo.rewards import RewardScore
from fer.grpo.step import Step
from fer.tracking import Run
from fer.training.checkpoint import TrainerState
from fer.training.worker import Worker

HISTORY = ("frac_zero_std", "completions/mean_length", "kl", "entropy", "staleness", "time/step")
"""Metrics, besides the rewards, that the run's history keeps of each step."""


class MetricsLogger:
    """Logs the steps of a run. All trainers reduce metrics together; rank 0 writes them."""

    def __init__(
        self,
        config: GrpoConfig,
        worker: Worker,
        tracking: Run,
        reward_parts: Sequence[str],
        *,
        total_steps: int,
        total_batches: int,
        peak_flops: float | None,
    ) -> None:
        self.config, self.worker, self.tracking, self.reward_parts = config, worker, tracking, reward_parts
        self.total_steps, self.total_batches, self.peak_flops = total_steps, total_batches, peak_flops
        self.recent_seconds: deque[float] = deque(maxlen=20)
        self.reported_errors: set[str] = set()

    def log_step(self, step: Step, state: TrainerState) -> None:
        """Log a finished step, and append it to the history. Collective: every trainer must call it."""
        self._report_errors([score for group in step.groups for score in group.scores])
        metrics = self._reduce(step)
        self.recent_seconds.append(metrics["time/step"])
        kept = {name: value for name, value in metrics.items() if name in HISTORY or name.startswith("reward/")}
        state.history.append({"step": float(state.global_step), **kept})
        if self.worker.is_rank_zero:
            self.tracking.log_metrics(metrics, step=state.global_step)
            remaining = (self.total_batches - state.batch) * statistics.median(self.recent_seconds)
            print(
                f"step {state.global_step}/{self.total_steps}  reward {metrics['reward/mean']:.3f}  "
                f"zero std {metrics['frac_zero_std']:.0%}  length {metrics['completions/mean_length']:.0f}  "
                + (f"kl {metrics['kl']:.4f}  " if self.config.beta else "")
                + f"entropy {metrics['entropy']:.2f}  "
                f"{metrics['time/step']:.1f} s/step (wait {metrics['time/wait']:.1f}, update "
                f"{metrics['time/update']:.1f})  {_format_duration(remaining)} left",
                flush=True,
            )

    def _reduce(self, step: Step) -> dict[str, float]:
        """A step's metrics over all trainers."""
        groups = step.groups
        scores = [score for group in groups for score in group.scores]
        completions = [completion for group in groups for completion in group.completions]
        staleness = [
            step.global_step - version
            for group in groups
            for versions in group.output.weight_versions
            for version in versions
        ]
        sums: dict[str, float] = {
            "loss": step.loss,
            "completions": len(completions),
            "completion_tokens": sum(len(completion.token_ids) for completion in completions),
            "truncated": sum(completion.truncated for completion in completions),
            "reward": sum(score.total for score in scores),
            "squared_reward": sum(score.total**2 for score in scores),
            "reward_errors": sum(bool(score.errors) for score in scores),
            "groups": len(groups),
            "zero_std": sum(not group.has_signal for group in groups),
            "staleness": sum(staleness),
            "num_tokens": step.num_tokens,
            "flops": step.flops or 0.0,
            "memory_gb": step.memory_gb,
        }
        sums |= {f"reward/{part}/mean": sum(score.parts[part] for score in scores) for part in self.reward_parts}
        sums |= {f"token/{name}": value for name, value in step.token_sums.items()}
        sums |= {f"time/{phase}": seconds for phase, seconds in step.phase_seconds.items()}
        device, world_size = self.worker.device, self.worker.world_size
        reduced = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
        dist.all_reduce(reduced)
        total = dict(zip(sums, reduced.tolist(), strict=True))
        maxima = torch.tensor([step.importance_max, float(max(staleness))], device=device)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        importance_max, staleness_max = maxima.tolist()

        seconds = time.perf_counter() - step.started
        count, tokens = total["completions"], max(total["token/tokens"], 1.0)
        mean = total["reward"] / count
        metrics = {
            "loss": total["loss"],
            "grad_norm": step.grad_norm,
            "lr": step.lr,
            "reward/mean": mean,
            "reward/std": max(0.0, total["squared_reward"] / count - mean**2) ** 0.5,
            **{f"reward/{part}/mean": total[f"reward/{part}/mean"] / count for part in self.reward_parts},
            "reward/errors": total["reward_errors"],
            "frac_zero_std": total["zero_std"] / total["groups"],
            "completions/mean_length": total["completion_tokens"] / count,
            "completions/clipped": total["truncated"] / count,
            **{name: total[f"token/{name}"] / tokens for name in ("kl", "entropy", "clip_ratio", "logprob_diff")},
            "importance/mean": total["token/importance"] / tokens,
            "importance/max": importance_max,
            "importance/capped": total["token/importance_capped"] / tokens,
            "staleness": total["staleness"] / total["completion_tokens"],
            "staleness_max": staleness_max,
            **{f"time/{phase}": total[f"time/{phase}"] / world_size for phase in step.phase_seconds},
            "time/step": seconds,
            "throughput/completions": count / seconds,
            "throughput/tokens": total["num_tokens"] / seconds,
            "memory_gb": total["memory_gb"] / world_size,
            "engine_restarts": float(step.engine_restarts),
        }
        if step.engine_stats is not None:
            metrics["time/generate"] = step.engine_stats.seconds
            metrics["throughput/generated_tokens"] = step.engine_stats.tokens / max(step.engine_stats.seconds, 1e-9)
        if step.sync_logprob_diff is not None:
            metrics["sync_logprob_diff"] = step.sync_logprob_diff
        if step.flops is not None and self.peak_flops:
            metrics["mfu"] = total["flops"] / world_size / metrics["time/update"] / self.peak_flops
        if device.type == "cuda":
            metrics["gpu_utilization"] = float(torch.cuda.utilization())
        return metrics

    def _report_errors(self, scores: Sequence[RewardScore]) -> None:
        """Print the first error of each reward function."""
        for score in scores:
            for name, reason in score.errors.items():
                if name not in self.reported_errors:
                    self.reported_errors.add(name)
                    print(f"reward function {name} failed; such completions get reward 0: {reason}", flush=True)

    def log_completions(self, groups: Sequence[RolloutGroup], global_step: int) -> None:
        """Log a page of prompts, completions and rewards as an artifact of the run."""
        environment = Environment(loader=PackageLoader("fer.grpo", "."), autoescape=True, undefined=StrictUndefined)
        page = environment.get_template("completions.html.j2").render(
            step=global_step, parts=self.reward_parts, groups=[(group, _thumbnail_url(group)) for group in groups]
        )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"step-{global_step:06d}.html").write_text(page)
            self.tracking.log_artifacts(Path(folder), "completions")


def _thumbnail_url(group: RolloutGroup) -> str:
    """The prompt's image as a data URL."""
    file = io.BytesIO()
    image = Image.fromarray(group.example.prompt.image)
    image.thumbnail((224, 224))
    image.save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
