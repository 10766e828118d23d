"""Requests to engines that differ in speed, die or have no weights; coroutines in place of Ray's actors."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError

from fer.grpo.rollout import Prompt, RolloutOutput
from fer.grpo.router import Router
from tests.waiting import until


class Engine:
    """Answers after some time, with its number and that of the request it got; ``failure``: once, instead of that."""

    def __init__(self, number: int, seconds: float, failure: Exception | str | None = None) -> None:
        self.number, self.seconds, self.failure = number, seconds, failure
        self.prompts: list[str] = []
        self.generate = SimpleNamespace(remote=self.answer)

    async def answer(self, prompt: Prompt, greedy: bool) -> RolloutOutput | None:
        self.prompts.append(prompt.text)
        await asyncio.sleep(self.seconds)
        failure, self.failure = self.failure, None
        if isinstance(failure, Exception):
            raise failure
        return None if failure else RolloutOutput([self.number, int(prompt.text)], [], [])


def prompts(number: int) -> list[Prompt]:
    return [Prompt(str(i), np.zeros((2, 2, 3), np.uint8)) for i in range(number)]


def results(pending: list[Any]) -> list[list[int]]:
    return [future.result(timeout=60).prompt_token_ids for future in pending]


def test_a_slow_engine_does_not_hold_the_batch() -> None:
    engines = [Engine(0, 0.01), Engine(1, 1.0)]
    router = Router(engines, capacity=16, group_size=8)
    found = results(router.submit(prompts(40)))
    assert [request for _, request in found] == list(range(40)), "in the order of the prompts"
    assert len(engines[1].prompts) <= 8, "in turn, it would have had 20"
    assert router.load == [0, 0]


def test_a_request_goes_to_the_engine_with_the_least_to_do() -> None:
    router = Router([None, None, None], capacity=24, group_size=8, first=1)
    assert router._choose(8) == 1, "trainers start at different engines"
    router.load = [8, 16, 9]
    assert router._choose(8) == 0
    router.load = [24, 17, 24]
    assert router._choose(8) is None, "an engine samples 24 completions at a time"
    assert router._choose(1) == 1
    router.load, router.capacity = [8, 0, 0], 4
    assert router._choose(8) == 1, "one group, if it is the only one"
    router.lost = {1, 2}
    assert router._choose(8) is None


def test_what_waits_goes_out_oldest_first() -> None:
    engine = Engine(0, 0.01)
    router = Router([engine], capacity=2, group_size=1)
    results([*router.submit(prompts(4)), *router.submit(prompts(2), greedy=True)])
    assert engine.prompts == ["0", "1", "2", "3", "0", "1"]


@pytest.mark.parametrize("failure", [RayActorError(), "has no weights"])
def test_what_an_engine_leaves_unfinished_goes_to_the_others(failure: Any) -> None:
    engines = [Engine(0, 0.1, failure), Engine(1, 0.01)]
    router = Router(engines, capacity=8, group_size=8)
    assert results(router.submit(prompts(4))) == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert router.lost == {0}
    results(router.submit(prompts(2)))
    assert engines[0].prompts == ["0"], "it is left alone until it has weights"
    router.readmit()
    results(router.submit(prompts(2)))
    assert len(engines[0].prompts) == 2


def test_without_engines_requests_wait() -> None:
    engine = Engine(0, 0.0, RayActorError())
    router = Router([engine], capacity=8, group_size=8)
    pending = router.submit(prompts(3))
    until(lambda: router.lost == {0})
    assert not wait(pending, timeout=0.3).done
    assert router.busy == []
    router.readmit()
    assert results(pending) == [[0, 0], [0, 1], [0, 2]]


def test_an_error_of_vllm_reaches_the_trainer() -> None:
    router = Router([Engine(0, 0.0, ValueError("too long"))], capacity=8, group_size=8)
    [first, second] = router.submit(prompts(2))
    with pytest.raises(ValueError, match="too long"):
        first.result(timeout=60)
    assert second.result(timeout=60).prompt_token_ids == [0, 1]


def test_an_engine_that_does_not_answer_is_named() -> None:
    router = Router([Engine(0, 0.0), Engine(1, 600.0)], capacity=8, group_size=8)
    started = time.monotonic()
    router.submit(prompts(2))
    until(lambda: router.silent_since(started, 0.2) == {1})
    assert router.silent_since(time.monotonic(), 0.2) == set(), "it was not waited for"
