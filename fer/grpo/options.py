"""Options of `fer grpo`: plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fer.data.options import QuestionOptions
from fer.options import Options
from fer.plugins import Registry
from fer.vlm.options import VlmTrainingOptions


@dataclass(frozen=True)
class Kind:
    """What a kind of loss sets where the user does not."""

    clip_low: float
    clip_high: float
    beta: float
    extra_rounds: int = 0


# GRPO as UniFER runs it (TRL's defaults); the others after their papers, see fer/grpo/loss.py.
KINDS = {
    "grpo": Kind(0.2, 0.2, beta=0.04),
    "dr-grpo": Kind(0.2, 0.2, beta=0.0),
    "dapo": Kind(0.2, 0.28, beta=0.0, extra_rounds=3),
    "gspo": Kind(3e-4, 4e-4, beta=0.0),
}
GRPO = KINDS["grpo"]

REWARDS = Registry(
    "--rewards",
    "fer.rewards",
    {
        "accuracy": "fer.grpo.rewards:accuracy",
        "strict": "fer.grpo.rewards:strict",
        "format": "fer.grpo.rewards:form",
        "length": "fer.grpo.rewards:length",
        "repetition": "fer.grpo.rewards:repetition",
    },
)


class RolloutOptions(Options):
    """Engines, and how they sample."""

    engines: int = Field(1, ge=1, description="vLLM engines that sample (Ray actors; one GPU each, if there are GPUs)")
    cpus_per_engine: float = Field(1, gt=0, description="CPUs that Ray reserves for each engine")
    gpu_memory_utilization: float = Field(0.9, gt=0, lt=1, description="Share of its GPU's memory that an engine takes")
    engine_timeout: float = Field(
        1800, gt=0, description="Seconds that an engine may take to start, or to answer, before it is restarted"
    )
    prompts: int = Field(8, ge=1, description="Questions in each batch of rollouts, over all workers")
    group_size: int = Field(8, ge=2, description="Completions sampled for each question")
    temperature: float = Field(1.0, gt=0, le=2, description="Sampling temperature")
    max_prompt_tokens: int = Field(4096, ge=16, description="Longest question in tokens, image included")
    max_completion_tokens: int = Field(1024, ge=4, description="Longest completion in tokens; longer ones are cut off")
    async_depth: int = Field(
        0, ge=0, le=1, description="0: sample with the newest weights; 1: sample the next batch while one is learned"
    )


class RewardOptions(Options):
    """What is rewarded."""

    rewards: dict[str, float] = Field(
        {"accuracy": 1.0, "format": 1.0},
        min_length=1,
        description=f"Weight of each reward, as JSON on the command line: {', '.join(REWARDS.builtin)}, one of an "
        "installed package, or module:function of your own",
    )
    overlong_buffer: int = Field(
        0, ge=0, description="Punish completions in the last so many tokens before the limit, up to -1 (DAPO); 0: don't"
    )

    @field_validator("rewards")
    @classmethod
    def _known_rewards(cls, value: dict[str, float]) -> dict[str, float]:
        return {REWARDS.check(name): weight for name, weight in value.items()}


class PolicyOptions(Options):
    """The loss."""

    loss: Literal["grpo", "dr-grpo", "dapo", "gspo"] = Field("grpo", description="Kind of loss; sets the next four")
    beta: float = Field(GRPO.beta, ge=0, description="Weight of the KL divergence from the first model; 0: none")
    clip_low: float = Field(GRPO.clip_low, ge=0, lt=1, description="Ratios below 1 minus this are clipped")
    clip_high: float = Field(GRPO.clip_high, ge=0, description="Ratios above 1 plus this are clipped")
    extra_rounds: int = Field(
        GRPO.extra_rounds,
        ge=0,
        description="Batches sampled at most in place of all-equal groups (DAPO's dynamic sampling)",
    )
    importance_cap: float = Field(
        2.0,
        ge=0,
        description="Largest weight that corrects for the engine's probabilities being others; 0: no correction",
    )
    iterations: int = Field(1, ge=1, description="Optimizer steps on each batch of rollouts")
    batch_size: int = Field(8, ge=1, description="Completions per worker in one forward pass")

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What is not given follows from the kind of loss."""
        kind = KINDS.get(values.get("loss", "grpo"))
        return (vars(kind) if kind else {}) | values


class GrpoWatchOptions(Options):
    """What is looked at while training runs."""

    sample_every: int = Field(20, ge=0, description="Steps between two pages of sampled completions; 0: none")
    check_sync_every: int = Field(
        10, ge=0, description="Steps between two checks that the engines have the trainers' weights; 0: none"
    )
    sync_tolerance: float = Field(
        0.1, gt=0, description="Mean difference of log-probabilities at which such a check stops the job"
    )


class GrpoConfig(QuestionOptions, VlmTrainingOptions, RolloutOptions, RewardOptions, PolicyOptions, GrpoWatchOptions):
    """Reinforce a vision-language model with verifiable rewards (GRPO): it answers, and learns from what was right."""

    decode_threads: int = Field(1, ge=1, le=64, description="Threads per worker that decode images and tokenise")
    dry_run: bool = Field(False, description="Print placement, batches and memory, and stop")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.prompts % self.workers:
            low = self.prompts // self.workers * self.workers
            raise ValueError(
                f"--prompts {self.prompts} can't be dealt to {self.workers} workers: use "
                + " or ".join(str(n) for n in (low, low + self.workers) if n)
            )
        if self.completions_per_worker % self.batch_size:
            fits = [n for n in range(1, self.completions_per_worker + 1) if self.completions_per_worker % n == 0]
            raise ValueError(
                f"--batch-size {self.batch_size} does not divide the {self.completions_per_worker} completions of each "
                f"worker (--prompts {self.prompts} / --workers {self.workers} x --group-size {self.group_size}): use "
                f"one of {', '.join(map(str, fits))}"
            )
        if not self.fixed_size and self.max_pixels is None:
            raise ValueError("--min-pixels without --max-pixels: the longest prompt is then not known")
        if self.overlong_buffer >= self.max_completion_tokens:
            raise ValueError("--overlong-buffer is not below --max-completion-tokens")
        return self

    @property
    def prompts_per_worker(self) -> int:
        return self.prompts // self.workers

    @property
    def completions_per_worker(self) -> int:
        return self.prompts_per_worker * self.group_size
