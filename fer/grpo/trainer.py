"""Group-relative policy optimisation: the training loop of one trainer in a Ray Train group.

Each step sends the newest weights to the engines, submits prompts, scores the completions, and updates the policy on
the batch whose turn it is. With ``async_level`` N that batch was submitted N steps earlier, and the engines generate
the next ones during the update.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from typing import Any

import torch

from fer.data.manifest import ShardedDataset
from fer.grpo.engine_pool import EnginePool
from fer.grpo.evaluation import SCORE, Evaluation
from fer.grpo.groups import RolloutGroup, score_group
from fer.grpo.metrics_logger import MetricsLogger
from fer.grpo.options import GrpoConfig
from fer.grpo.policy_update import PolicyUpdate
from fer.grpo.preflight import estimate_memory
from fer.grpo.prompts import PromptExample, PromptLoader, batches_of
from fer.grpo.rewards import RewardScorer
from fer.grpo.rollout import RolloutOutput
from fer.grpo.step import Step
from fer.grpo.sync_check import measure_logprob_diff
from fer.grpo.weight_sync import PolicyWeights
from fer.tracking import Run
from fer.training.checkpoint import NO_SCORE
from fer.training.worker import Worker
from fer.vlm.base_trainer import BaseTrainer
from fer.vlm.chat import ChatFormat
from fer.vlm.model import DTYPES, resolve_vlm

LOGGED_GROUPS = 4
"""Groups on a page of completions."""


def train_grpo(settings: dict[str, Any]) -> None:
    """The loop that Ray Train runs on each trainer.

    ``settings``: config, model, data, tracking, resume, engines (actor handles), masked_token_ids,
    longest_prompt and evaluation.
    """
    config = GrpoConfig.model_validate(settings["config"])
    worker = Worker.start(config)
    pool = EnginePool(
        settings["engines"],
        worker,
        config.engine_timeout,
        config.sync_timeout,
        config.colocate,
        config.completions_per_engine,
        config.num_generations,
        config.sync_bucket_mb * 2**20,
        config.tensor_parallel,
    )
    dataset, run = ShardedDataset(settings["data"]), Run(**settings["tracking"])
    model = resolve_vlm(settings["model"], config)
    trainer = GrpoTrainer(
        config,
        model,
        dataset,
        worker,
        run,
        pool,
        settings["masked_token_ids"],
        settings["longest_prompt"],
        settings["resume"],
        settings["evaluation"],
    )
    trainer.run()


class GrpoTrainer(BaseTrainer):
    """The state of a run on one trainer, and the parts of a step: sync weights, collect rollouts, update the policy."""

    def __init__(
        self,
        config: GrpoConfig,
        model: str,
        dataset: ShardedDataset,
        worker: Worker,
        run: Run,
        pool: EnginePool,
        masked_token_ids: list[int],
        longest_prompt: int,
        resume: str | None,
        evaluation: tuple[str, str] | None,
    ) -> None:
        """``longest_prompt``: in tokens. ``evaluation``: the questions, see `evaluation_questions`."""
        super().__init__(config, model, worker, run, resume)
        self.config, self.pool, self.longest_prompt = config, pool, longest_prompt
        self.chat = ChatFormat(self.processor, config, max_tokens=config.max_prompt_tokens)
        self.prompts = PromptLoader(dataset, config, self.chat, worker.rank)
        self.total_batches = self.prompts.per_epoch * config.epochs
        """Rollout batches of the run."""
        self.setup(
            self.total_batches * config.num_iterations,
            batch_size=config.batch_size,
            grad_accum_steps=config.completions_per_worker // config.batch_size,
        )
        self.update_policy = PolicyUpdate(self, config, model, masked_token_ids, self.chat.pad_token_id)
        merged = config.engine_adapters == "merged"
        self.weights = PolicyWeights(self.engine.module, DTYPES[config.precision], merged)
        self.scorer = RewardScorer(config.rewards, config.overlong_buffer)
        self.in_flight: deque[tuple[list[PromptExample], list[Future[RolloutOutput]]]] = deque()
        """Rollout batches that were submitted and not yet collected, oldest first."""
        self.evaluation = Evaluation(evaluation, config, self.chat, worker) if evaluation else None
        self.last_group: RolloutGroup | None = None
        self.logger = MetricsLogger(
            config,
            worker,
            run,
            self.scorer.parts,
            total_steps=self.total_steps,
            total_batches=self.total_batches,
            peak_flops=self.peak_flops,
        )

    def estimate_memory(self, options: GrpoConfig) -> float:
        return estimate_memory(options, self.model, self.longest_prompt)["trainer: total"]

    # -- loop ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the restored state to the end. ``state.batch`` counts the rollout batches that were collected."""
        if self.state.finished:
            return
        config, state = self.config, self.state
        self.batches = self.prompts.batches(state.batch, state.consumed)
        self.pool.connect(self.weights, state.global_step, cancel_requests=True)
        while state.batch < self.total_batches:
            if self.notice.arrived():
                self.save_checkpoint({SCORE: NO_SCORE})
                self.notice.leave()
            step = Step(state.global_step)
            self.sync_weights(step)
            groups = self.collect_rollouts(step)
            if config.colocate:
                with step.phase("wait"):
                    self.pool.sleep()
            self.update_policy(groups, step)
            step.engine_restarts = self.pool.restarts
            self.last_group = groups[-1]
            self.profiler.step()
            self.logger.log_step(step, state)
            if self.worker.is_rank_zero and self.is_due(config.log_completions_every):
                self.logger.log_completions(groups[:LOGGED_GROUPS], state.global_step)
            epoch, state.epoch = state.epoch, state.batch // self.prompts.per_epoch
            if state.epoch > epoch:
                state.consumed = []
            if state.batch < self.total_batches:
                self.evaluate_and_save(is_new_epoch=state.epoch > epoch)
        self.save_final_model({SCORE: self.evaluate()})

    def divide_rest_of_epoch(self) -> None:
        state, config = self.state, self.config
        batches = state.batch % self.prompts.per_epoch - batches_of(state.consumed, config)
        rows = batches * config.prompts_per_step // state.world_size
        state.consumed = [*state.consumed, (state.world_size, rows)]

    def evaluate_and_save(self, is_new_epoch: bool) -> None:
        """Evaluate if it is due, and save a checkpoint if that is, or if the accuracy is the best so far.

        A checkpoint without the model, such as that of an accuracy reached before, is never the best.
        """
        config, best = self.config, self.state.best_score
        score = self.evaluate() if self.is_due(config.eval_steps) else NO_SCORE
        is_best = self.state.best_score != best
        if is_new_epoch or is_best or self.is_due(config.checkpoint_every):
            self.save_checkpoint({SCORE: score if is_best else NO_SCORE}, with_model=is_best)

    def evaluate(self) -> float:
        """Send the engines the newest weights, and let them answer the questions of the evaluation; the accuracy.

        NO_SCORE if the run has no evaluation.
        """
        if self.evaluation is None:
            return NO_SCORE
        state, started = self.state, time.perf_counter()
        step = Step(state.global_step)
        self.sync_weights(step)
        metrics = self.evaluation(self.pool, self.weights)
        score = metrics["eval/accuracy"]
        state.best_score = score if state.best_score is None else max(score, state.best_score)
        if self.worker.is_rank_zero:
            print("evaluation  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()), flush=True)
            metrics["time/eval"] = time.perf_counter() - started
            if step.sync_logprob_diff is not None:
                metrics["sync_logprob_diff"] = step.sync_logprob_diff
            self.tracking.log_metrics(metrics, step=state.global_step)
        return score

    def is_due(self, every: int) -> bool:
        """Whether the last step reached a multiple of ``every`` optimizer steps; 0: never."""
        before = self.state.global_step - self.config.num_iterations
        return bool(every) and self.state.global_step // every > before // every

    def sync_weights(self, step: Step) -> None:
        """Send the newest weights to the engines, unless they have them; compare both every ``check_sync_every``."""
        if self.pool.version == self.state.global_step:
            return
        with step.phase("wait"):
            self.pool.pause()
        with step.phase("sync"):
            step.engine_stats = self.pool.sync_weights(self.weights, self.state.global_step)
            if step.engine_stats is None:
                self.pool.recover(self.weights)
        if self.last_group and self.is_due(self.config.check_sync_every):
            with step.phase("check_sync"):
                step.sync_logprob_diff = measure_logprob_diff(
                    self.pool, self.engine, self.last_group, self.chat.pad_token_id
                )

    # -- rollouts ------------------------------------------------------------------------------------------------------

    def submit_batches(self, collected: int) -> None:
        """Submit batches until ``async_level`` + 1 are in flight; ``collected``: batches collected so far."""
        while len(self.in_flight) <= self.config.async_level and collected + len(self.in_flight) < self.total_batches:
            examples = next(self.batches)
            self.in_flight.append((examples, self.pool.submit([example.prompt for example in examples])))

    def collect_rollouts(self, step: Step) -> list[RolloutGroup]:
        """The groups that the step trains on, ``prompts_per_worker`` on every trainer.

        Groups whose rewards are all equal have no gradient; up to ``dynamic_sampling_batches`` more batches are
        collected to replace them.
        """
        wanted, state = self.config.prompts_per_worker, self.state
        with_signal: list[RolloutGroup] = []
        without_signal: list[RolloutGroup] = []
        for extra in range(self.config.dynamic_sampling_batches + 1):
            with step.phase("wait"):
                self.submit_batches(state.batch)
                examples, pending = self.in_flight.popleft()
                outputs = self.pool.collect(pending, self.weights)
            with step.phase("reward"):
                for example, output in zip(examples, outputs, strict=True):
                    prompt_ids = example.inputs["input_ids"][0].tolist()
                    assert output.prompt_token_ids == prompt_ids, "engine and trainer tokenise the prompt differently"
                    group = score_group(example, output, self.scorer, self.config.max_new_tokens)
                    (with_signal if group.has_signal else without_signal).append(group)
            state.batch += 1
            is_last = extra == self.config.dynamic_sampling_batches or state.batch == self.total_batches
            if is_last or self.all_reduce_sum(torch.tensor([float(len(with_signal) < wanted)])).item() == 0:
                break
        step.groups = with_signal + without_signal
        return step.groups[:wanted]
