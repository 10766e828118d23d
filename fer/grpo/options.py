"""Options of `fer grpo`: plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from fer.data.options import QuestionOptions
from fer.options import Options
from fer.plugins import Registry
from fer.training.placement import Bundle
from fer.vlm.options import VlmTrainingOptions

TRAINER_GPU = 0.4
"""Share of a GPU that Ray counts for a trainer beside an engine. Two engines, of 0.6 each, never get the same GPU."""
MAX_LORA_RANK = 512
"""Of adapters that vLLM computes."""


@dataclass(frozen=True)
class LossDefaults:
    """The options that a loss sets where the user does not."""

    clip_ratio_low: float
    clip_ratio_high: float
    beta: float
    dynamic_sampling_batches: int = 0


# GRPO as UniFER runs it (TRL's defaults); the others after their papers, see fer/grpo/loss.py.
LOSS_DEFAULTS = {
    "grpo": LossDefaults(0.2, 0.2, beta=0.04),
    "dr_grpo": LossDefaults(0.2, 0.2, beta=0.0),
    "dapo": LossDefaults(0.2, 0.28, beta=0.0, dynamic_sampling_batches=3),
    "gspo": LossDefaults(3e-4, 4e-4, beta=0.0),
}
GRPO = LOSS_DEFAULTS["grpo"]

REWARDS = Registry(
    "--rewards",
    "fer.rewards",
    {
        "accuracy": "fer.grpo.rewards:accuracy",
        "strict": "fer.grpo.rewards:strict",
        "format": "fer.grpo.rewards:well_formed",
        "length": "fer.grpo.rewards:length",
        "repetition": "fer.grpo.rewards:repetition",
    },
)


class RolloutOptions(Options):
    """Rollout engines and sampling."""

    engines: int = Field(1, ge=1, description="vLLM engines that generate completions (on GPUs, if there are any)")
    tensor_parallel: int = Field(
        1, ge=1, description="GPUs of each engine, all on one node, over which vLLM splits the weights"
    )
    cpus_per_engine: float = Field(1, gt=0, description="CPUs reserved for each engine")
    engine_labels: dict[str, str] = Field(
        {}, description="Labels of the nodes that engines run on, such as role=rollout; unset: any node"
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, lt=1, description="Fraction of a GPU's memory that an engine uses")
    colocate: bool = Field(
        False,
        description="One trainer and one engine on each GPU; the engine gives back its memory during the update. Lower "
        "--gpu-memory-utilization: beside a sampling engine are the trainer's weights and optimizer",
    )
    engine_timeout: float = Field(
        900,
        gt=0,
        description="Seconds to wait for an engine to start or to respond before it is restarted; at most half of "
        "--process-group-timeout",
    )
    sync_timeout: float = Field(
        300,
        gt=0,
        description="Seconds that a weight transfer to the engines may take before it is aborted and those that hang "
        "are restarted; at most --engine-timeout",
    )
    sync_bucket_mb: int = Field(
        1024,
        ge=1,
        description="Weights are sent in buckets of so many MB; trainer 0 and each GPU of an engine have two in memory",
    )
    engine_adapters: Literal["merged", "separate"] = Field(
        "merged",
        description="With --lora: at a weight sync, engines merge the adapters into their weights (merged), or vLLM "
        "computes them beside these, so that a sync moves less and sampling takes longer (separate)",
    )
    max_num_seqs: int = Field(
        256,
        ge=1,
        description="Completions that an engine samples at a time; more prompts wait for the engine that is free first",
    )
    prompts_per_step: int = Field(8, ge=1, description="Prompts in each rollout batch, over all workers")
    num_generations: int = Field(8, ge=2, description="Completions sampled for each prompt (the group size)")
    temperature: float = Field(1.0, gt=0, le=2, description="Sampling temperature")
    max_prompt_tokens: int = Field(4096, ge=16, description="Maximum length of a prompt in tokens, image included")
    max_new_tokens: int = Field(
        1024, ge=4, description="Maximum length of a completion in tokens; longer ones are truncated"
    )
    async_level: int = Field(
        0,
        ge=0,
        le=16,
        description="0: generate with the newest weights; 1: generate the next batch during the update, with weights "
        "that are one step old; N: up to N batches ahead",
    )
    partial_rollouts: bool = Field(
        False,
        description="Completions that are unfinished at a weight update go on with the new weights; otherwise it waits "
        "for them. Needs --async-level",
    )


class RewardOptions(Options):
    """Rewards."""

    rewards: dict[str, float] = Field(
        {"accuracy": 1.0, "format": 1.0},
        min_length=1,
        description=f"Weight of each reward, as JSON on the command line: {', '.join(REWARDS.builtin)}, one of an "
        "installed package, or a custom one as module:function",
    )
    overlong_buffer: int = Field(
        0,
        ge=0,
        description="Tokens before the length limit over which DAPO's soft overlong penalty grows from 0 to 1; 0: none",
    )

    @field_validator("rewards")
    @classmethod
    def _known_rewards(cls, value: dict[str, float]) -> dict[str, float]:
        return {REWARDS.check(name): weight for name, weight in value.items()}


class PolicyLossOptions(Options):
    """The policy loss."""

    loss: Literal["grpo", "dr_grpo", "dapo", "gspo"] = Field("grpo", description="Loss; sets the next four options")
    beta: float = Field(
        GRPO.beta, ge=0, description="Weight of the KL divergence from the initial model; 0: no reference model"
    )
    clip_ratio_low: float = Field(GRPO.clip_ratio_low, ge=0, lt=1, description="Clip ratios below 1 minus this")
    clip_ratio_high: float = Field(GRPO.clip_ratio_high, ge=0, description="Clip ratios above 1 plus this")
    dynamic_sampling_batches: int = Field(
        GRPO.dynamic_sampling_batches,
        ge=0,
        description="Extra rollout batches per step, at most, to replace groups whose rewards are all equal (DAPO's "
        "dynamic sampling); 0: off",
    )
    importance_sampling_cap: float = Field(
        2.0,
        ge=0,
        description="Cap of the importance weights that correct for differences between the engine's and the "
        "trainer's probabilities; 0: no correction",
    )
    num_iterations: int = Field(1, ge=1, description="Optimizer steps on each rollout batch")
    batch_size: int = Field(
        8, ge=1, description="Completions per worker in one forward pass, on average: fewer if they are long"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_loss_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        defaults = LOSS_DEFAULTS.get(values.get("loss", "grpo"))
        return (vars(defaults) if defaults else {}) | values


class GrpoLoggingOptions(Options):
    """Logging."""

    log_completions_every: int = Field(
        20, ge=0, description="Optimizer steps between two pages of sampled completions; 0: none"
    )
    check_sync_every: int = Field(
        10,
        ge=0,
        description="Optimizer steps between two comparisons of the engines' log-probabilities with the trainers'; "
        "0: none",
    )


class EvaluationOptions(Options):
    """Evaluation during training."""

    eval_steps: int = Field(
        0,
        ge=0,
        description="Optimizer steps between two evaluations, in which the engines answer questions that are not "
        "trained on; the best checkpoint is kept. 0: none",
    )
    eval_rows: int = Field(256, ge=1, description="Maximum number of questions of an evaluation")
    eval_data: str | None = Field(
        None, description="Questions of the evaluation, such as FERBench's; unset: the validation split of --data"
    )
    eval_image_root: str | None = Field(
        None, description="Folder or .zip with the images of --eval-data; unset: the folder of the file"
    )


class GrpoConfig(
    QuestionOptions,
    VlmTrainingOptions,
    RolloutOptions,
    RewardOptions,
    PolicyLossOptions,
    GrpoLoggingOptions,
    EvaluationOptions,
):
    """Train a vision-language model by reinforcement learning with verifiable rewards (GRPO)."""

    mutable_options: ClassVar[frozenset[str]] = VlmTrainingOptions.mutable_options | {
        *("engine_timeout", "sync_timeout", "sync_bucket_mb", "engine_labels"),
    }

    decode_threads: int = Field(1, ge=1, le=64, description="Threads per worker that decode images and tokenise")
    dry_run: bool = Field(False, description="Print placement, batches and a memory estimate, and exit")

    @model_validator(mode="after")
    def _check_divisibility(self) -> Self:
        if self.prompts_per_step % self.workers:
            lower = self.prompts_per_step // self.workers * self.workers
            raise ValueError(
                f"--prompts-per-step {self.prompts_per_step} is not divisible by --workers {self.workers}: use "
                + " or ".join(str(n) for n in (lower, lower + self.workers) if n)
            )
        if self.completions_per_worker % self.batch_size:
            divisors = [n for n in range(1, self.completions_per_worker + 1) if self.completions_per_worker % n == 0]
            raise ValueError(
                f"--batch-size {self.batch_size} does not divide the {self.completions_per_worker} completions per "
                f"worker (--prompts-per-step {self.prompts_per_step} / --workers {self.workers} x --num-generations "
                f"{self.num_generations}): use one of {', '.join(map(str, divisors))}"
            )
        return self

    @model_validator(mode="after")
    def _check_colocation(self) -> Self:
        if self.colocate and self.engines != self.workers:
            raise ValueError(
                f"--colocate puts a trainer and an engine on each GPU, but there are --workers {self.workers} and "
                f"--engines {self.engines}: make them equal"
            )
        if self.colocate and self.tensor_parallel > 1:
            raise ValueError("--colocate: an engine shares the GPU of one trainer: --tensor-parallel 1")
        if self.colocate and self.async_level:
            raise ValueError(
                "--colocate: engines on the trainers' GPUs can't sample during the update: --async-level 0"
            )
        return self

    @model_validator(mode="after")
    def _check_partial_rollouts(self) -> Self:
        if self.partial_rollouts and not self.async_level:
            raise ValueError(
                "--partial-rollouts: with --async-level 0 all completions are finished at an update: use 1 or more"
            )
        return self

    @model_validator(mode="after")
    def _check_engine_adapters(self) -> Self:
        if self.engine_adapters == "separate" and (self.lora != "lora" or self.lora_rank > MAX_LORA_RANK):
            raise ValueError(
                f"--engine-adapters separate: vLLM computes LoRA adapters of ranks up to {MAX_LORA_RANK}, not DoRA: "
                "use --lora lora, or --engine-adapters merged"
            )
        return self

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.overlong_buffer >= self.max_new_tokens:
            raise ValueError("--overlong-buffer must be less than --max-new-tokens")
        return self

    @model_validator(mode="after")
    def _check_timeouts(self) -> Self:
        """The trainers wait in a collective for the one that waits for an engine, and it for a transfer."""
        if self.engine_timeout > self.process_group_timeout / 2:
            raise ValueError(
                f"--engine-timeout {self.engine_timeout:g} is above half of --process-group-timeout "
                f"{self.process_group_timeout:g}: the trainers would end before an engine is restarted"
            )
        if self.sync_timeout > self.engine_timeout:
            raise ValueError(
                f"--sync-timeout {self.sync_timeout:g} is above --engine-timeout {self.engine_timeout:g}: an engine "
                "would be restarted before its transfer is aborted"
            )
        return self

    @property
    def engine_bundle(self) -> Bundle:
        """The engines, as processes beside the trainers."""
        gpu = {"GPU": self.gpus_per_engine} if self.device == "gpu" else {}
        resources = {"CPU": self.cpus_per_engine, **gpu}
        smaller = "--engines, --tensor-parallel or --cpus-per-engine"
        return Bundle("engine", self.engines, resources, smaller, self.engine_labels)

    @property
    def gpus_per_worker(self) -> float:
        return TRAINER_GPU if self.colocate else 1.0

    @property
    def gpus_per_engine(self) -> float:
        return 1 - TRAINER_GPU if self.colocate else float(self.tensor_parallel)

    @property
    def completions_per_engine(self) -> int:
        """Completions of one trainer that an engine samples at a time."""
        return self.max_num_seqs // self.workers

    @property
    def prompts_per_worker(self) -> int:
        return self.prompts_per_step // self.workers

    @property
    def completions_per_worker(self) -> int:
        return self.prompts_per_worker * self.num_generations
