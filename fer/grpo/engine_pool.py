"""The engines as the trainers see them: asked, waited for with patience that ends, and given the newest weights.

Every trainer asks its own questions. The leading trainer alone sends weights; under ZeRO-3 all take part in gathering
them. When an engine dies, all trainers learn of it together, wait for its successor, and ask again what it owed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError

from fer.errors import UserError
from fer.grpo.options import GrpoConfig
from fer.grpo.vllm_engine import Group, Prompt, RolloutEngine, Work
from fer.grpo.weight_sync import TIMEOUT, Policy, open_group, send
from fer.training.worker import Worker

SAY_EVERY = 30.0
"""Seconds of waiting between two lines that say who is waited for."""

DEATHS = 3
"""Times in a row that engines may die before the job gives up."""


def start_engines(
    config: GrpoConfig, model: str, banned: Sequence[int], use_gpu: bool, engine: type[RolloutEngine] = RolloutEngine
) -> list[Any]:
    """The engines, starting; they live as long as this driver, and Ray restarts them when they die."""
    actor: Any = ray.remote(engine)
    sampling = {
        "n": config.group_size,
        "temperature": config.temperature,
        "max_tokens": config.max_completion_tokens,
        "logit_bias": dict.fromkeys(banned, -100.0),  # vLLM's least
    }
    arguments: dict[str, Any] = {
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[config.precision],
        "max_model_len": config.max_prompt_tokens + config.max_completion_tokens,
    }
    if use_gpu:
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
    return [
        actor.options(num_cpus=config.cpus_per_engine, num_gpus=int(use_gpu), max_restarts=-1).remote(
            model, sampling, arguments | {"seed": config.seed + number}, config.trust_remote_code
        )
        for number in range(config.engines)
    ]


@contextmanager
def running_engines(config: GrpoConfig, model: str, banned: Sequence[int], use_gpu: bool) -> Iterator[list[Any]]:
    """Engines that have started, as long as they are needed. Raises UserError if one can't be started."""
    engines = start_engines(config, model, banned, use_gpu)
    try:
        for number, engine in enumerate(engines):
            await_start(number, engine, config.engine_timeout)
        yield engines
    finally:
        for engine in engines:
            ray.kill(engine)


def await_start(number: int, actor: Any, timeout: float) -> None:
    """Wait for an engine to start, or to start again. Raises UserError if it can't, or not in time."""
    started = time.monotonic()
    ready = actor.ready.remote()
    while time.monotonic() - started < timeout:
        done, _ = ray.wait([ready], timeout=SAY_EVERY)
        if not done:
            print(f"waiting for engine {number} to start ({time.monotonic() - started:.0f} s)", flush=True)
            continue
        try:
            ray.get(ready)
            return
        except ActorDiedError as error:
            raise UserError(f"engine {number} can't be started: {str(error).strip().splitlines()[-1]}") from error
        except RayActorError:  # it is being restarted
            time.sleep(1)
            ready = actor.ready.remote()
    raise UserError(f"engine {number} did not start within {timeout:g} s (--engine-timeout)")


LOST = (RayActorError, GetTimeoutError, RuntimeError)
"""What it looks like when an engine is gone or stuck; of a lost peer torch says RuntimeError."""


@dataclass
class Asked:
    """Questions on their way, and who was asked."""

    prompts: list[Prompt]
    engines: list[int]
    answers: list[Any]


class Engines:
    """One trainer's view of all engines."""

    def __init__(self, actors: Sequence[Any], worker: Worker, timeout: float) -> None:
        self.actors, self.worker, self.timeout = list(actors), worker, timeout
        self.group: Any = None
        self.store: dist.TCPStore | None = None
        self.version = -1
        """Of the weights that were sent last."""
        self.stuck: set[int] = set()
        """Engines that did not answer in time."""
        self.restarts = 0

    # -- questions -----------------------------------------------------------------------------------------------------

    def ask(self, prompts: Sequence[Prompt], first: int = 0) -> Asked:
        """Send questions to the engines in turn; ``first`` is the number of the first one among all trainers'."""
        asked = Asked(list(prompts), [(first + i) % len(self.actors) for i in range(len(prompts))], [])
        asked.answers = [
            self.actors[engine].sample.remote(prompt)
            for prompt, engine in zip(asked.prompts, asked.engines, strict=True)
        ]
        return asked

    def collect(self, asked: Asked, policy: Policy) -> list[Group]:
        """The answers. What a dead engine owed is asked again of its successor. Every trainer must call it."""
        groups = self._answers(asked)
        while not self._all(None not in groups):
            if not self._all(self._hold_newest()):
                self.recover(policy)
            owed = [i for i, group in enumerate(groups) if group is None]
            if owed:
                self._say(f"{len(owed)} of {len(groups)} questions are asked again")
            again = self.ask([asked.prompts[i] for i in owed])
            for i, group in zip(owed, self._answers(again), strict=True):
                groups[i] = group
        return [group for group in groups if group is not None]

    def _answers(self, asked: Asked) -> list[Group | None]:
        """The answers; None where the engine died or took too long."""
        self._wait(asked.answers, asked.engines, "questions are not answered")
        groups: list[Group | None] = []
        for answer in asked.answers:
            try:
                groups.append(ray.get(answer, timeout=0))
            except (RayActorError, GetTimeoutError):
                groups.append(None)
        return groups

    def drain(self) -> None:
        """Wait until the engines have answered all that any trainer asked; the leading trainer waits."""
        if self.worker.is_rank_zero:
            self._wait([actor.idle.remote() for actor in self.actors], range(len(self.actors)), "engines are not done")

    def _wait(self, refs: list[Any], engines: Sequence[int], what: str) -> None:
        """Wait with patience that ends: engines that are not done by then count as stuck."""
        started = time.monotonic()
        pending = refs
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=SAY_EVERY)
            owing = {engine for engine, ref in zip(engines, refs, strict=True) if ref in pending}
            waited = time.monotonic() - started
            if owing and waited > self.timeout:
                self.stuck |= owing
                return
            if owing:
                who = ", ".join(map(str, sorted(owing)))
                self._say(f"waiting for engine {who}: {len(pending)} of {len(refs)} {what} ({waited:.0f} s)")

    def _hold_newest(self) -> bool:
        """Whether all engines live and have the weights that were sent last; the leading trainer looks."""
        if self.stuck or not self.worker.is_rank_zero:
            return not self.stuck
        try:
            return set(ray.get([actor.holds.remote() for actor in self.actors], timeout=SAY_EVERY)) == {self.version}
        except (RayActorError, GetTimeoutError):
            return False

    # -- weights -------------------------------------------------------------------------------------------------------

    def connect(self, policy: Policy, version: int, fresh: bool = False) -> None:
        """Wait until every engine is there, meet them in a new process group, and send all weights.

        ``fresh``: these trainers have just begun, and what engines were asked before is dropped. Every trainer must
        call it. Raises UserError if engines die again and again.
        """
        for attempt in range(DEATHS):
            self._restart_stuck()
            failed = self._meet(fresh and not attempt) if self.worker.is_rank_zero else None
            if failed:
                self._say(f"{failed}; trying again")
            if self._all(failed is None) and self.sync(policy, version, whole=True) is not None:
                return
        raise UserError(f"the engines died {DEATHS} times while weights were sent to them; their logs say why")

    def recover(self, policy: Policy) -> None:
        """Connect again after an engine's death. Every trainer must call it."""
        started = time.monotonic()
        self.connect(policy, self.version)
        self.restarts += 1
        if self.worker.is_rank_zero:
            self._say(f"an engine died; after {time.monotonic() - started:.0f} s all have the newest weights again")

    def sync(self, policy: Policy, version: int, whole: bool = False) -> Work | None:
        """Send the newest weights once the engines have answered all; None if an engine died.

        With adapters these go alone, unless ``whole``. Every trainer must call it.
        """
        self.version = version
        work: Work | None = Work()
        if policy.scaling and whole:
            work = self._send(policy, policy.whole, keep=True)
        if work is not None:
            how = {"adapters": True, "scaling": policy.scaling} if policy.scaling else {}
            work = self._send(policy, policy.news, **how)
        return work

    def check(self, prompt: Prompt, tokens: Sequence[int], mine: torch.Tensor, tolerance: float) -> float:
        """The largest mean difference of an engine's log-probabilities of a completion from the trainer's, ``mine``.

        Every trainer must call it; the leading one's completion counts. Raises UserError, in all of them, beyond the
        tolerance: the weights did not arrive.
        """
        worst = torch.zeros((), dtype=torch.float64, device=self.worker.device)
        if self.worker.is_rank_zero:
            for number, actor in enumerate(self.actors):
                try:
                    theirs = torch.tensor(ray.get(actor.score.remote(prompt, list(tokens)), timeout=self.timeout))
                except RayActorError:  # whoever asks next brings it back
                    self._say(f"engine {number} died before it was checked")
                    continue
                worst = torch.maximum(worst, (mine - theirs).abs().mean().to(worst).nan_to_num(torch.inf))
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        if worst > tolerance:
            raise UserError(
                f"the weights of step {self.version} did not arrive: an engine's log-probabilities differ from the "
                f"trainers' by {worst.item():.3g} on average (--sync-tolerance {tolerance:g})"
            )
        return worst.item()

    def _restart_stuck(self) -> None:
        """Kill the engines that any trainer waited for in vain; Ray starts them again."""
        stuck = torch.tensor([float(i in self.stuck) for i in range(len(self.actors))], device=self.worker.device)
        dist.all_reduce(stuck)
        self.stuck.clear()
        for engine in stuck.nonzero().flatten().tolist() if self.worker.is_rank_zero else []:
            self._say(f"engine {engine} has not answered for {self.timeout:g} s: it is restarted")
            ray.kill(self.actors[engine], no_restart=False)

    def _send(self, policy: Policy, parameters: Any, **how: Any) -> Work | None:
        metas = policy.metas(parameters)
        weights = policy.read(parameters)
        done: list[Work] | None = [Work()]
        if self.worker.is_rank_zero:
            refs = [actor.update.remote(self.version, metas, **how) for actor in self.actors]
            try:
                send(self.group, weights, metas, self.worker.device)
                done = ray.get(refs, timeout=self.timeout)
            except LOST as error:
                self._say(f"weights were not sent: {self._blame(error)}")
                done = None
        for _ in weights:  # the others, and the leader after a failure: gathering is for all
            pass
        if not self._all(done is not None) or done is None:
            return None
        return Work(max(work.seconds for work in done), sum(work.tokens for work in done))

    def _meet(self, fresh: bool) -> str | None:
        """Open the process group; the reason if an engine died meanwhile."""
        try:
            for number, actor in enumerate(self.actors):
                await_start(number, actor, self.timeout)
                if fresh:
                    ray.get(actor.forget.remote(), timeout=self.timeout)
            if self.group is not None:
                self.group.shutdown()
            host, size = ray.util.get_node_ip_address(), 1 + len(self.actors)
            self.store = dist.TCPStore(host, 0, size, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
            refs = [
                actor.meet.remote(host, self.store.port, 1 + number, size) for number, actor in enumerate(self.actors)
            ]
            self.group = open_group(self.store, 0, size, self.worker.device)
            ray.get(refs, timeout=self.timeout)
        except LOST as error:
            return self._blame(error)
        return None

    def _blame(self, error: Exception) -> str:
        """What an error says; engines that did not answer in time count as stuck."""
        if isinstance(error, GetTimeoutError):
            self.stuck |= set(range(len(self.actors)))
        return str(error).splitlines()[0]

    # -- together ------------------------------------------------------------------------------------------------------

    def _all(self, well: bool) -> bool:
        """Whether it is well with every trainer."""
        flag = torch.tensor(float(well), device=self.worker.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    def _say(self, text: str) -> None:
        print(f"[trainer {self.worker.rank}] {text}", flush=True)
