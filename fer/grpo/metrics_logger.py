"""What is seen of a run: figures of each step in MLflow and in a line, and pages of sampled completions."""

from __future__ import annotations

import base64
import io
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from fer.grpo.batch import Batch, Episode
from fer.grpo.loss import PolicyLoss
from fer.grpo.vllm_engine import Work

if TYPE_CHECKING:
    from fer.grpo.trainer import Trainer

SAMPLES = 4
"""Questions on a page of samples."""

KEPT = ("reward", "reward_std", "all_equal", "length", "kl", "entropy", "staleness", "step_seconds")
"""Figures, besides the rewards' parts, that a run's history keeps of each step."""


class Step:
    """One step in the making: what it took, and sums over its tokens on this trainer."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.sums: dict[str, float] = defaultdict(float)
        self.largest_weight = 0.0
        self.work: Work | None = None
        self.seen: list[Episode] = []
        self.tokens = 0
        self.grad_norm = self.lr = 0.0
        self.sync_difference: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time that passes under a name."""
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    def add(
        self, batch: Batch, logp: Tensor, entropy: Tensor, mask: Tensor, weight: Tensor, outcome: PolicyLoss, cap: float
    ) -> None:
        """Count a batch that was learned from."""
        sampled_by = batch.sampled_by.to(logp.device)
        new = {
            "learned": mask.sum(),
            "kl": outcome.kl,
            "clip_share": outcome.clipped,
            "entropy": entropy[mask].sum(),
            "importance": weight[mask].sum(),
            "importance_capped": (weight[mask] >= cap).sum() if cap else torch.zeros(()),
            "mismatch": (logp - sampled_by)[mask].abs().sum(),
            "loss": outcome.loss.detach(),
        }
        for name, value in new.items():
            self.sums[name] += value.item()
        self.largest_weight = max(self.largest_weight, weight.max().item())


class Watch:
    """Looks at the steps of a trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.times: deque[float] = deque(maxlen=20)
        self.last: Episode | None = None
        self.told: set[str] = set()

    def step(self, step: Step, episodes: list[Episode]) -> None:
        """Log a step that was taken. Every trainer must call it."""
        trainer, state = self.trainer, self.trainer.state
        self.last = episodes[-1]
        figures = self.figures(step)
        self.times.append(figures["step_seconds"])
        kept = {name: value for name, value in figures.items() if name in KEPT or name.startswith("reward_")}
        state.history.append({"step": float(state.global_step), **kept})
        if trainer.worker.is_rank_zero:
            trainer.tracking.log_metrics(figures, step=state.global_step)
            left = (trainer.rounds - state.batch) * statistics.median(self.times)
            print(
                f"step {state.global_step}/{trainer.total_steps}  reward {figures['reward']:.3f}  "
                f"all equal {figures['all_equal']:.0%}  length {figures['length']:.0f}  "
                + (f"kl {figures['kl']:.4f}  " if self.config.beta else "")
                + f"entropy {figures['entropy']:.2f}  "
                f"{figures['step_seconds']:.1f} s a step (wait {figures['seconds_wait']:.1f}, update "
                f"{figures['seconds_update']:.1f})  {_clock(left)} to go",
                flush=True,
            )
            if trainer.due(self.config.sample_every):
                self.keep(episodes[:SAMPLES])

    def figures(self, step: Step) -> dict[str, float]:
        """A step's figures over all trainers. Every trainer must call it."""
        trainer = self.trainer
        scores = [
            (score, sampled) for e in step.seen for score, sampled in zip(e.scores, e.group.completions, strict=True)
        ]
        sums = dict.fromkeys(
            ["learned", "kl", "clip_share", "entropy", "importance", "importance_capped", "mismatch", "loss"], 0.0
        ) | dict(step.sums)
        counts = {
            "completions": len(scores),
            "reward": sum(score.total for score, _ in scores),
            "squares": sum(score.total**2 for score, _ in scores),
            "failed": sum(bool(score.failed) for score, _ in scores),
            "length": sum(len(sampled.tokens) for _, sampled in scores),
            "cut": sum(sampled.cut for _, sampled in scores),
            "groups": len(step.seen),
            "all_equal": sum(not e.teaches for e in step.seen),
            "staleness": sum(
                trainer.state.global_step - trainer.config.iterations - e.group.version for e in step.seen
            ),
            "tokens": step.tokens,
            "memory": trainer.memory_gb(),
        }
        parts = {f"reward_{name}": sum(score.parts[name] for score, _ in scores) for name in trainer.scorer.parts}
        phases = {f"seconds_{name}": step.seconds[name] for name in ("wait", "reward", "update", "sync", "check")}
        mine = sums | counts | parts | phases
        total = dict(zip(mine, trainer.all_reduce_sum(torch.tensor(list(mine.values()))).tolist(), strict=True))
        largest = torch.tensor(step.largest_weight, device=trainer.worker.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        self._tell_failures(scores)

        seconds, workers = time.perf_counter() - step.started, trainer.worker.world_size
        completions, learned = total["completions"], max(total["learned"], 1.0)
        mean = total["reward"] / completions
        figures = {
            "reward": mean,
            "reward_std": max(0.0, total["squares"] / completions - mean**2) ** 0.5,
            **{name: total[name] / completions for name in parts},
            "failed_rewards": total["failed"],
            "all_equal": total["all_equal"] / total["groups"],
            "length": total["length"] / completions,
            "cut_off": total["cut"] / completions,
            "loss": total["loss"],
            **{name: total[name] / learned for name in ("kl", "clip_share", "entropy", "mismatch")},
            "importance_mean": total["importance"] / learned,
            "importance_capped": total["importance_capped"] / learned,
            "importance_max": largest.item(),
            "staleness": total["staleness"] / total["groups"],
            "grad_norm": step.grad_norm,
            "lr": step.lr,
            **{name: total[name] / workers for name in phases},
            "step_seconds": seconds,
            "samples_per_second": completions / seconds,
            "tokens_per_second": total["tokens"] / seconds,
            "memory_gb": total["memory"] / workers,
            "engine_restarts": float(trainer.engines.restarts),
        }
        if step.work is not None:
            figures["seconds_generate"] = step.work.seconds
            figures["generated_tokens_per_second"] = step.work.tokens / max(step.work.seconds, 1e-9)
        if step.sync_difference is not None:
            figures["sync_difference"] = step.sync_difference
        if trainer.flops_per_token and trainer.peak_flops:
            useful = total["tokens"] / workers * trainer.flops_per_token * trainer.flops_factor
            figures["mfu"] = useful / figures["seconds_update"] / trainer.peak_flops
        if trainer.worker.device.type == "cuda":
            figures["gpu_utilization"] = float(torch.cuda.utilization())
        return figures

    def _tell_failures(self, scores: list[Any]) -> None:
        """Each way in which a reward's function fails is told once."""
        for score, _ in scores:
            for name, reason in score.failed.items():
                if name not in self.told:
                    self.told.add(name)
                    print(f"reward {name} failed, and its completions get 0: {reason}", flush=True)

    def keep(self, episodes: list[Episode]) -> None:
        """A page of questions, completions and rewards, as an artifact of the run."""
        environment = Environment(loader=PackageLoader("fer.grpo", "."), autoescape=True, undefined=StrictUndefined)
        step = self.trainer.state.global_step
        page = environment.get_template("samples.html.j2").render(
            step=step, parts=self.trainer.scorer.parts, episodes=[(e, _data_url(e)) for e in episodes]
        )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"step-{step:06d}.html").write_text(page)
            self.trainer.tracking.log_artifacts(Path(folder), "samples")


def _data_url(episode: Episode) -> str:
    file = io.BytesIO()
    image = Image.fromarray(episode.question.prompt.image)
    image.thumbnail((224, 224))
    image.save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
