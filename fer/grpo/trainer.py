"""Group-relative policy optimisation: what one trainer of a Ray Train group does, top to bottom.

Each step: the engines get the newest weights, and questions to answer; answers are rewarded; the policy learns from the
batch that is due. With ``async_depth`` 1 that batch was sampled one step ago, and the engines sample the next one while
this one is learned.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fer.data.manifest import ShardedDataset
from fer.grpo.batch import Batch, Episode, collate, cut, reward
from fer.grpo.engine_pool import Asked, Engines
from fer.grpo.loss import Totals, importance, policy_loss, token_logprobs
from fer.grpo.metrics_logger import Step, Watch
from fer.grpo.options import GrpoConfig
from fer.grpo.prompts import Question, Questions
from fer.grpo.reference import open_reference
from fer.grpo.rewards import Scorer
from fer.grpo.vllm_engine import Sampled
from fer.grpo.weight_sync import Policy
from fer.tracking import Run
from fer.training.flops import count_flops
from fer.training.seeding import derive_seed
from fer.training.worker import Worker
from fer.vlm.base_trainer import BaseTrainer
from fer.vlm.chat import ChatFormat
from fer.vlm.model import DTYPES
from fer.vlm.validation import to_device


def train_grpo(settings: dict[str, Any]) -> None:
    """The loop that Ray Train runs on each trainer. ``settings``: config, model, data, tracking, engines, banned."""
    config = GrpoConfig.model_validate(settings["config"])
    worker = Worker.start(config)
    engines = Engines(settings["engines"], worker, config.engine_timeout)
    dataset, run = ShardedDataset(settings["data"]), Run(**settings["tracking"])
    trainer = Trainer(config, settings["model"], dataset, worker, run, engines, settings["banned"])
    trainer.restore(settings["resume"])
    trainer.run()


class Trainer(BaseTrainer):
    """The state of a run on one trainer, and its verbs: run, gather, learn, check."""

    def __init__(
        self,
        config: GrpoConfig,
        model: str,
        dataset: ShardedDataset,
        worker: Worker,
        run: Run,
        engines: Engines,
        banned: list[int],
    ) -> None:
        super().__init__(config, model, worker, run)
        self.config, self.engines = config, engines
        self.chat = ChatFormat(self.processor, config, max_tokens=config.max_prompt_tokens)
        self.questions = Questions(dataset, config, self.chat, worker.rank)
        self.passes = config.completions_per_worker // config.batch_size
        self.rounds = self.questions.per_epoch * config.epochs
        """Batches of questions that the run asks."""
        self.setup(self.rounds * config.iterations, batch_size=config.batch_size, grad_accum_steps=self.passes)
        self.reference = open_reference(self.engine, model, config) if config.beta else None
        self.policy = Policy(self.engine.module, DTYPES[config.precision])
        self.scorer = Scorer(config.rewards, config.overlong_buffer)
        self.banned = torch.tensor(banned, dtype=torch.long, device=worker.device)
        self.asked: deque[tuple[list[Question], Asked]] = deque()
        self.flops_per_token: float | None = None
        self.watch = Watch(self)

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the restored state to the end. ``state.batch`` counts the batches of questions that were used."""
        if self.state.finished:
            return
        config, state = self.config, self.state
        self.stream = self.questions.stream(state.batch)
        self.engines.connect(self.policy, state.global_step, fresh=True)
        self.sent = state.global_step
        while state.batch < self.rounds:
            step = Step()
            self.sync(step)
            episodes = self.gather(step)
            self.learn(episodes, step)
            self.watch.step(step, episodes)
            epoch, state.epoch = state.epoch, state.batch // self.questions.per_epoch
            if state.batch < self.rounds and (state.epoch > epoch or self.due(config.checkpoint_every)):
                self.save_checkpoint({})
        self.save_final_model()

    def due(self, every: int) -> bool:
        """Whether the last step reached a multiple of ``every`` optimizer steps; 0: never."""
        before = self.state.global_step - self.config.iterations
        return bool(every) and self.state.global_step // every > before // every

    def sync(self, step: Step) -> None:
        """Give the engines the newest weights, and now and then prove that they have them."""
        if self.sent == self.state.global_step:
            return
        with step.phase("wait"):
            self.engines.drain()
        with step.phase("sync"):
            work = self.engines.sync(self.policy, self.state.global_step)
            if work is None:
                self.engines.recover(self.policy)
        self.sent = self.state.global_step
        step.work = work
        if self.watch.last and self.due(self.config.check_sync_every):
            with step.phase("check"):
                step.sync_difference = self.check_sync(self.watch.last)

    # -- questions and answers -----------------------------------------------------------------------------------------

    def ask_ahead(self, consumed: int) -> None:
        """Have as many batches of questions under way as the depth allows; ``consumed``: batches taken before."""
        while len(self.asked) <= self.config.async_depth and consumed + len(self.asked) < self.rounds:
            questions = next(self.stream)
            first = self.worker.rank * len(questions)
            self.asked.append((questions, self.engines.ask([each.prompt for each in questions], first)))

    def gather(self, step: Step) -> list[Episode]:
        """The episodes that a step learns from: as many on every trainer.

        All-equal groups teach nothing; up to ``extra_rounds`` more batches are asked in their place.
        """
        wanted, state = self.config.prompts_per_worker, self.state
        useful: list[Episode] = []
        useless: list[Episode] = []
        for extra in range(self.config.extra_rounds + 1):
            with step.phase("wait"):
                self.ask_ahead(state.batch)
                questions, asked = self.asked.popleft()
                groups = self.engines.collect(asked, self.policy)
            with step.phase("reward"):
                for question, group in zip(questions, groups, strict=True):
                    assert group.prompt_tokens == question.inputs["input_ids"][0].tolist(), "one prompt, two readings"
                    episode = reward(question, group, self.scorer, self.config.max_completion_tokens)
                    (useful if episode.teaches else useless).append(episode)
            state.batch += 1
            last = extra == self.config.extra_rounds or state.batch == self.rounds
            if last or self.all_reduce_sum(torch.tensor([float(len(useful) < wanted)])).item() == 0:
                break
        step.seen = useful + useless
        return (useful + useless)[:wanted]

    # -- learning ------------------------------------------------------------------------------------------------------

    def learn(self, episodes: list[Episode], step: Step) -> None:
        """One optimizer step on all completions, or several."""
        config = self.config
        with step.phase("update"):
            batches = list(cut(episodes, config.batch_size, config.loss != "dr-grpo", self.chat.pad_token_id))
            sums = torch.tensor([[len(batch.mask), batch.mask.sum(), batch.tokens] for batch in batches]).sum(0)
            completions, tokens, _ = self.all_reduce_sum(sums).tolist()
            step.tokens = int(sums[2])
            if self.flops_per_token is None and self.peak_flops is not None:
                self.flops_per_token = self.measure_flops(batches[0])
            if self.reference is not None:
                for batch in batches:
                    batch.reference = self.reference(partial(self.reference_logprobs, batch))
            for iteration in range(config.iterations):
                for i, batch in enumerate(batches):
                    torch.manual_seed(derive_seed(config.seed, self.state.global_step, i, self.worker.rank))
                    self.engine.set_gradient_accumulation_boundary(i + 1 == len(batches))
                    loss = self.loss(batch, Totals(completions, tokens), step, first=iteration == 0)
                    # DeepSpeed averages over the trainers; a step's loss is a sum over all their completions.
                    self.engine.backward(loss * self.worker.world_size, scale_wrt_gas=False)
                    self.engine.step()
                self.state.global_step += 1
        step.grad_norm = float(self.engine.get_global_grad_norm() or 0.0)
        step.lr = self.learning_rate

    def loss(self, batch: Batch, totals: Totals, step: Step, first: bool) -> Tensor:
        """The batch's share of the step's loss, and its figures for the log."""
        config, device = self.config, self.worker.device
        logp, entropy = self.logprobs(self.engine, batch)
        if batch.old is None:
            batch.old = logp.detach()
        mask = batch.mask.to(device)
        weight = importance(batch.old, batch.sampled_by.to(device), mask, config.importance_cap)
        outcome = policy_loss(
            logp,
            batch.old,
            batch.reference,
            batch.advantage.to(device),
            mask,
            weight,
            totals,
            kind=config.loss,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            beta=config.beta,
            max_tokens=config.max_completion_tokens,
        )
        step.add(batch, logp.detach(), entropy, mask, weight, outcome, config.importance_cap)
        return outcome.loss

    def logprobs(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (N, T - start) of a batch's tokens from ``start`` on, float32."""
        inputs = to_device(batch.inputs, self.worker.device)
        tokens = inputs["input_ids"][:, batch.start :]
        if self.trim_logits:
            inputs["logits_to_keep"] = tokens.shape[1] + 1  # type: ignore[assignment]
        logits = model(**inputs, use_cache=False).logits[:, -tokens.shape[1] - 1 : -1]
        # Row by row and recomputed in the backward pass: a vocabulary of 150,000 in float32 is most of the memory.
        rows = [
            checkpoint(token_logprobs, row, ids, self.config.temperature, self.banned, use_reentrant=False)
            for row, ids in zip(logits, tokens, strict=True)
        ]
        logps, entropies = zip(*rows, strict=True)
        return torch.stack(logps), torch.stack(entropies)

    def reference_logprobs(self, batch: Batch, model: Any) -> Tensor:
        return self.logprobs(model, batch)[0]

    def measure_flops(self, batch: Batch) -> float:
        return count_flops(lambda: self.logprobs(self.engine.module, batch)) / batch.tokens

    # -- proof ---------------------------------------------------------------------------------------------------------

    def check_sync(self, episode: Episode) -> float:
        """Whether engines and trainers agree about a completion, see `Engines.check`."""
        tokens = min((each.tokens for each in episode.group.completions), key=len)
        mine = self.plain_logprobs(episode, tokens)
        return self.engines.check(episode.question.prompt, tokens, mine, self.config.sync_tolerance)

    @torch.no_grad()
    def plain_logprobs(self, episode: Episode, tokens: list[int]) -> Tensor:
        """Log-probabilities of tokens as a completion, at temperature 1 and with all tokens allowed, on the host."""
        given = Sampled("", tokens, [0.0] * len(tokens), cut=False)
        batch = collate([episode.question], [given], torch.zeros(1), self.chat.pad_token_id)
        inputs = to_device(batch.inputs, self.worker.device)
        self.engine.eval()
        logits = self.engine(**inputs, use_cache=False).logits[0, -len(tokens) - 1 : -1]
        self.engine.train()
        none = torch.empty(0, dtype=torch.long, device=logits.device)
        return token_logprobs(logits, torch.tensor(tokens, device=logits.device), 1.0, none)[0].cpu()
