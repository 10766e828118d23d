"""What a rollout engine asks of vLLM, and in which order; the calls are recorded in place of vLLM."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer.grpo.checksums import RankReport, SyncReport
from fer.grpo.communicator import WAS_ABORTED
from fer.grpo.rollout import Prompt, token_versions
from fer.grpo.vllm_engine import RolloutEngine


class RecordingLLM:
    """Records the names of the methods that are called; ``reset_prefix_cache`` returns ``has_reset``."""

    def __init__(self, has_reset: bool = True) -> None:
        self.calls: list[str] = []
        self.sampled: list[dict[str, Any]] = []
        self.has_reset = has_reset
        self.results: list[Any] = [RankReport({"weight": 7}, {}, {}, [])]
        """Of the ranks."""
        self.llm_engine = self
        self.output_processor = SimpleNamespace(request_states={})
        self.steps_left: dict[str, int] = {}
        """Of each request, by its name."""

    def enqueue(self, inputs: Any, params: Any, lora_request: Any, use_tqdm: bool) -> list[str]:
        self.sampled.append(params)
        self.steps_left[str(len(self.sampled))] = 2
        return [f"{len(self.sampled)}-x"]

    def step(self) -> list[Any]:
        self.calls.append("step")
        self.steps_left = {name: steps - 1 for name, steps in self.steps_left.items() if steps}
        return [SimpleNamespace(request_id=name, finished=not steps) for name, steps in self.steps_left.items()]

    def collective_rpc(self, method: str, args: Any) -> list[Any]:
        self.calls.append(method)
        return self.results

    def __getattr__(self, name: str) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return {"reset_prefix_cache": self.has_reset}.get(name)

        return record


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict))

    def make(can_sleep: bool, has_reset: bool = True, partial_rollouts: bool = False) -> RolloutEngine:
        engine = RolloutEngine.__new__(RolloutEngine)
        engine._thread = ThreadPoolExecutor(1)
        engine.llm = RecordingLLM(has_reset)
        engine._executor, engine._has_adapters = SimpleNamespace(), False
        engine._can_sleep, engine._asleep, engine._loop, engine.version = can_sleep, False, None, 3
        engine._queued, engine._running, engine._paused, engine._partial = [], {}, False, partial_rollouts
        engine.stats = SimpleNamespace(seconds=0.0, tokens=0)
        return engine

    return make


def test_an_update_drops_what_was_computed_with_the_old_weights(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    _, report = asyncio.run(engine.update_weights(4, []))
    assert (report, engine.version) == (SyncReport({"weight": 7}), 4)
    assert engine.llm.calls == ["receive_weights", "reset_prefix_cache", "reset_encoder_cache"]


def test_an_error_of_any_rank_is_the_engine_s(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    engine.llm.results += [WAS_ABORTED, "Traceback ... out of memory"]
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(engine.update_weights(4, []))
    assert engine.version == 3


def test_an_engine_with_a_dead_rank_answers_nothing(make_engine: Any) -> None:
    """Its process ends once vLLM has ended the other ranks; until then an error would count as the request's own."""
    engine = make_engine(can_sleep=False, has_reset=False)
    engine._executor.is_failed = True

    async def update() -> None:
        await asyncio.wait_for(engine.update_weights(4, []), 0.5)

    with pytest.raises(TimeoutError):
        asyncio.run(update())


def test_an_engine_that_keeps_old_keys_and_values_fails(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False, has_reset=False)
    with pytest.raises(RuntimeError, match="vLLM kept keys and values of the old weights"):
        asyncio.run(engine.update_weights(4, []))
    assert engine.version == 3, "the trainers send the weights again"


def test_a_sleeping_engine_wakes_up_before_anything_else(make_engine: Any) -> None:
    engine = make_engine(can_sleep=True)
    asyncio.run(engine.sleep())
    asyncio.run(engine.update_weights(4, []))
    assert engine.llm.calls[:3] == ["sleep", "wake_up", "receive_weights"]
    asyncio.run(engine.sleep())
    engine._engine_step([])
    engine._engine_step([])
    assert engine.llm.calls[-4:] == ["sleep", "wake_up", "step", "step"], "once"


def test_an_engine_without_sleep_mode_stays_awake(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    asyncio.run(engine.sleep())
    assert engine.llm.calls == []


def test_the_answers_of_an_evaluation_are_one_each_and_greedy(
    make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(can_sleep=False)
    engine.sampling = {"n": 8, "temperature": 0.7, "max_tokens": 5}
    monkeypatch.setattr("fer.grpo.vllm_engine.rollout_output", lambda *_: SimpleNamespace(completions=[]))
    prompt = Prompt("?", np.zeros((2, 2, 3), np.uint8))

    async def ask() -> None:
        await asyncio.gather(engine.generate(prompt), engine.generate(prompt, greedy=True))

    asyncio.run(ask())
    assert engine.llm.sampled == [
        {"n": 8, "temperature": 0.7, "max_tokens": 5, "logprobs": 0},
        {"n": 1, "temperature": 0.0, "max_tokens": 5, "logprobs": 0},
    ]


def test_an_engine_without_weights_samples_nothing(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    engine.version = -1
    assert asyncio.run(engine.generate(Prompt("?", np.zeros((2, 2, 3), np.uint8)))) is None
    assert engine.llm.calls == []


async def update_between(engine: RolloutEngine) -> tuple[list[str], list[tuple[int, dict[int, int]]]]:
    """vLLM's calls when new weights come during the first of two requests, and the second one's versions."""
    first = engine._submit({}, {})
    pausing = asyncio.create_task(engine.pause())
    await asyncio.sleep(0)
    second = engine._submit({}, {})
    await pausing
    await asyncio.sleep(0.05)
    await engine.update_weights(4, [])
    await asyncio.gather(first.output, second.output)
    return [call for call in engine.llm.calls if call in ("step", "receive_weights")], second.history


def test_an_update_comes_between_what_runs_and_what_waits(make_engine: Any) -> None:
    calls, versions = asyncio.run(update_between(make_engine(can_sleep=False)))
    assert calls == ["step", "step", "receive_weights", "step", "step"]
    assert versions == [(4, {})]


def test_with_partial_rollouts_nothing_is_finished_before_an_update(make_engine: Any) -> None:
    calls, _ = asyncio.run(update_between(make_engine(can_sleep=False, partial_rollouts=True)))
    assert calls == ["step", "receive_weights", "step", "step"]


def test_nothing_is_sampled_between_base_weights_and_adapters(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)

    async def update() -> list[str]:
        await engine.update_weights(4, [], keep_base=True)
        request = engine._submit({}, {})
        await asyncio.sleep(0.05)
        await engine.update_weights(4, [], adapters=True)
        await request.output
        return [call for call in engine.llm.calls if call in ("step", "receive_weights")]

    assert asyncio.run(update()) == ["receive_weights", "receive_weights", "step", "step"]


def test_versions_of_tokens() -> None:
    history = [(3, {}), (4, {0: 2, 1: 0}), (5, {0: 3})]
    assert token_versions(history, 0, 5) == [3, 3, 4, 5, 5]
    assert token_versions(history, 1, 2) == [4, 4], "it had no token yet when version 4 came, and was finished by 5"
    assert token_versions(history, 2, 1) == [3], "it was finished before"
