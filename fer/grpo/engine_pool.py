"""One trainer's handle on all rollout engines: requests, weight sync, and recovery from engine failures.

Every trainer sends its own requests. Rank 0 alone sends weights; under ZeRO-3 all trainers take part in gathering them.
When an engine dies, the requests that it left unfinished go to the others. At the next weight sync, or if there are no
others, all trainers agree that it died, wait until Ray has restarted it, and send it the newest weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError
from torch import nn

from fer.errors import UserError
from fer.grpo.checksums import SyncReport, transfer_problems
from fer.grpo.communicator import Communicator, Deadline
from fer.grpo.engine_errors import ENGINE_ERRORS, find_cause, raise_failure
from fer.grpo.engine_launch import LOG_INTERVAL, wait_until_ready
from fer.grpo.rollout import EngineStats, Prompt, RolloutOutput
from fer.grpo.router import Router
from fer.grpo.weight_sync import BUCKET_BYTES, PolicyWeights, send_weights
from fer.training.worker import Worker

MAX_ATTEMPTS = 3
"""Attempts to send all weights to all engines before the job fails."""

WRONG, FAILED, ARRIVED = -1, 0, 1
"""Outcomes of a weight transfer: other weights than those sent, an engine that failed, and success."""
GRACE_SECONDS = 10.0
"""How long engines may take to end an aborted call before they count as stuck."""
POLL_SECONDS = 1.0
"""How often a trainer that waits for results looks whether engines have failed."""


class EnginePool:
    """All engines, as one trainer uses them."""

    def __init__(
        self,
        actors: Sequence[Any],
        worker: Worker,
        timeout: float,
        sync_timeout: float,
        colocated: bool = False,
        capacity: int = 256,
        group_size: int = 8,
        bucket_bytes: int = BUCKET_BYTES,
        ranks_per_engine: int = 1,
    ) -> None:
        """``timeout``, ``sync_timeout``: seconds after which an engine that does not respond counts as stuck, in
        general and in a weight transfer. ``colocated``: trainers and engines are on the same GPUs. ``capacity``,
        ``group_size``: see `Router`. ``bucket_bytes``: of the buckets that weights are sent in. ``ranks_per_engine``:
        processes of an engine that receive them."""
        self.actors, self.worker, self.timeout, self.sync_timeout = list(actors), worker, timeout, sync_timeout
        self.colocated, self.bucket_bytes, self.ranks_per_engine = colocated, bucket_bytes, ranks_per_engine
        first = worker.rank * len(self.actors) // worker.world_size
        self.router = Router(self.actors, capacity, group_size, first)
        self.communicator: Communicator | None = None
        self.store: dist.TCPStore | None = None
        self.version = -1
        """Version of the weights that were sent last."""
        self.stuck: set[int] = set()
        """Engines that did not respond in time."""
        self.restarts = 0

    # -- requests ------------------------------------------------------------------------------------------------------

    def submit(self, prompts: Sequence[Prompt], greedy: bool = False) -> list[Future[RolloutOutput]]:
        """Send prompts to the engines; ``greedy``: for one completion each, of the most probable tokens."""
        return self.router.submit(prompts, greedy)

    def collect(self, pending: Sequence[Future[RolloutOutput]], weights: PolicyWeights) -> list[RolloutOutput]:
        """Wait for the results; recover failed engines if it needs them. Collective."""
        while not self._on_all_trainers(self._wait_for_results(pending)):
            if self._on_all_trainers(self._all_up_to_date()):
                self.router.readmit()
            else:
                self.recover(weights)
        return [future.result() for future in pending]

    def _wait_for_results(self, pending: Sequence[Future[RolloutOutput]]) -> bool:
        """Whether all results came; not if an engine is stuck, or if all are lost."""
        started = logged = time.monotonic()
        while wait(pending, timeout=POLL_SECONDS).not_done:
            self.stuck |= self.router.silent_since(started, self.timeout)
            if self.stuck or len(self.router.lost) == len(self.actors):
                return False
            if time.monotonic() - logged > LOG_INTERVAL:
                logged = time.monotonic()
                unfinished = sum(not future.done() for future in pending)
                self._log_waiting(self.router.busy, f"{unfinished} of {len(pending)} requests", logged - started)
        return True

    def pause(self) -> None:
        """Let the engines get ready for new weights, and wait for it on rank 0: see `RolloutEngine.pause`."""
        if not self.worker.is_rank_zero:
            return
        started = time.monotonic()
        unfinished = refs = [actor.pause.remote() for actor in self.actors]
        while unfinished:
            _, unfinished = ray.wait(unfinished, num_returns=len(unfinished), timeout=LOG_INTERVAL)
            busy = [engine for engine, ref in enumerate(refs) if ref in unfinished]
            waited = time.monotonic() - started
            if waited > self.timeout:
                self.stuck.update(busy)
                return
            if busy:
                self._log_waiting(busy, f"{len(busy)} of {len(refs)} engines", waited)

    def _log_waiting(self, engines: Sequence[int], what: str, seconds: float) -> None:
        self.log(f"waiting for engine {', '.join(map(str, engines))}: {what} busy ({seconds:.0f} s)")

    def sleep(self) -> None:
        """Let idle engines give their GPU's memory to the trainers, until they are needed again. Collective."""
        if self.worker.is_rank_zero:
            refs = [actor.sleep.remote() for actor in self.actors]
            try:
                ray.get(refs, timeout=self.timeout)
            except ENGINE_ERRORS as error:
                self.log(f"an engine did not give its memory back: {self._failure(error, refs)}")
        self._on_all_trainers(True)

    # -- weights -------------------------------------------------------------------------------------------------------

    def sync_weights(self, weights: PolicyWeights, version: int, with_base: bool = False) -> EngineStats | None:
        """Send the newest weights once the engines have paused; None if an engine failed. Collective.

        With adapters only these are sent, unless ``with_base``. The stats are the engines' work since the last sync.
        """
        self.version = version
        stats: EngineStats | None = EngineStats()
        if with_base and weights.base:
            stats = self._send(weights, weights.base, keep_base=True)
        if stats is not None:
            options = {"adapters": True, "scaling": weights.scaling} if weights.scaling else {}
            stats = self._send(weights, weights.synced, **options)
        if stats is not None:
            self.router.readmit()  # all engines are alive
        return stats

    def _send(
        self, weights: PolicyWeights, parameters: Mapping[str, nn.Parameter], **options: Any
    ) -> EngineStats | None:
        specs = weights.specs(parameters)
        tensors = weights.gather(parameters)
        done = [EngineStats()]
        outcome = ARRIVED
        if self.worker.is_rank_zero:
            options["bucket_bytes"] = self.bucket_bytes
            refs = [actor.update_weights.remote(self.version, specs, **options) for actor in self.actors]
            try:
                assert self.communicator is not None
                deadline = Deadline(self.sync_timeout)
                sent = send_weights(
                    self.communicator, tensors, specs, deadline, lambda: raise_failure(refs), self.bucket_bytes
                )
                results = ray.get(refs, timeout=deadline.remaining + GRACE_SECONDS)
                done = [stats for stats, _ in results]
                outcome = self._check_reports(sent, [report for _, report in results])
            except ENGINE_ERRORS as error:
                self.log(f"weight sync failed: {self._failure(error, refs)}")
                outcome = FAILED
        for _ in tensors:  # gathering is collective: the other trainers iterate too, and rank 0 after a failure
            pass
        outcome = self._min_over_trainers(outcome)
        if outcome == WRONG:
            raise UserError(
                f"weight sync of step {self.version} failed: the engines do not hold the trainers' weights (trainer 0 "
                "has printed which)"
            )
        if outcome == FAILED:
            return None
        return EngineStats(max(stats.seconds for stats in done), sum(stats.tokens for stats in done))

    def _check_reports(self, sent: Mapping[str, int], reports: Sequence[SyncReport]) -> int:
        """Compare what the engines received and hold with what was sent, and print each difference."""
        outcome = ARRIVED
        for number, report in enumerate(reports):
            for problem in transfer_problems(sent, report.received) + report.problems:
                self.log(f"weight sync: engine {number}: {problem}")
                outcome = WRONG
        return outcome

    # -- recovery ------------------------------------------------------------------------------------------------------

    def connect(self, weights: PolicyWeights, version: int, cancel_requests: bool = False) -> None:
        """Wait until all engines are ready, open a new process group with them, and send all weights. Collective.

        ``cancel_requests``: also cancel all requests, which a previous group of trainers sent. Raises UserError if
        engines fail again and again.
        """
        for attempt in range(MAX_ATTEMPTS):
            self._restart_stuck()
            failure = self._open_group(cancel_requests and not attempt) if self.worker.is_rank_zero else None
            if failure:
                self.log(f"{failure}; retrying")
            connected = self._on_all_trainers(failure is None)
            if connected and self.sync_weights(weights, version, with_base=True) is not None:
                return
        raise UserError(f"weight sync failed {MAX_ATTEMPTS} times because engines died; see the engines' logs")

    def recover(self, weights: PolicyWeights) -> None:
        """Connect again after an engine failed. Collective."""
        started = time.monotonic()
        self.connect(weights, self.version)
        self.restarts += 1
        if self.worker.is_rank_zero:
            self.log(f"recovered from an engine failure in {time.monotonic() - started:.0f} s")

    def _all_up_to_date(self) -> bool:
        """Whether all engines are alive and have the weights that were sent last; rank 0 checks."""
        if self.stuck or not self.worker.is_rank_zero:
            return not self.stuck
        try:
            versions = ray.get([actor.weight_version.remote() for actor in self.actors], timeout=LOG_INTERVAL)
        except (RayActorError, GetTimeoutError):
            return False
        return set(versions) == {self.version}

    def _restart_stuck(self) -> None:
        """Kill the engines that are stuck for any trainer; Ray restarts them. Collective."""
        stuck = torch.tensor([float(i in self.stuck) for i in range(len(self.actors))], device=self.worker.device)
        dist.all_reduce(stuck)
        self.stuck.clear()
        for engine in stuck.nonzero().flatten().tolist() if self.worker.is_rank_zero else []:
            self.log(f"restarting engine {engine}: no response within {self.timeout:g} s")
            ray.kill(self.actors[engine], no_restart=False)

    def _open_group(self, cancel_requests: bool) -> str | None:
        """Open the process group for weight sync; the reason if an engine failed meanwhile."""
        deadline = Deadline(self.timeout)
        refs: list[Any] = []
        try:
            if self.communicator is not None:
                self.communicator.abort()
            for number, actor in enumerate(self.actors):
                wait_until_ready(number, actor, deadline)
            if cancel_requests:
                refs = [actor.cancel.remote() for actor in self.actors]
                ray.get(refs, timeout=deadline.remaining)
            refs = [actor.pause.remote() for actor in self.actors]  # then a transfer's time is its own
            ray.get(refs, timeout=deadline.remaining)
            host, world_size = ray.util.get_node_ip_address(), 1 + len(self.actors) * self.ranks_per_engine
            wait = timedelta(seconds=self.sync_timeout)
            self.store = dist.TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False, timeout=wait)
            refs = [
                actor.init_process_group.remote(
                    host, self.store.port, rank, world_size, self.sync_timeout, self.colocated
                )
                for rank, actor in zip(range(1, world_size, self.ranks_per_engine), self.actors, strict=True)
            ]
            self.communicator = Communicator(
                self.store, 0, world_size, self.worker.device, self.sync_timeout, self.colocated
            )
            ray.get(refs, timeout=deadline.remaining)
        except ENGINE_ERRORS as error:
            return self._failure(error, refs)
        return None

    def _failure(self, error: Exception, refs: Sequence[Any]) -> str:
        """What has failed, as a line. The engines that do not end their calls ``refs`` now count as stuck."""
        if self.communicator is not None:
            self.communicator.abort()
        finished, unfinished = ray.wait(list(refs), num_returns=len(refs), timeout=GRACE_SECONDS) if refs else ([], [])
        self.stuck |= {engine for engine, ref in enumerate(refs) if ref in unfinished}
        return find_cause(error, finished)

    def _on_all_trainers(self, condition: bool) -> bool:
        """Whether ``condition`` holds on every trainer. Collective."""
        return bool(self._min_over_trainers(int(condition)))

    def _min_over_trainers(self, value: int) -> int:
        """The smallest value. Collective."""
        smallest = torch.tensor(value, device=self.worker.device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        return int(smallest.item())

    def log(self, text: str) -> None:
        print(f"[trainer {self.worker.rank}] {text}", flush=True)
