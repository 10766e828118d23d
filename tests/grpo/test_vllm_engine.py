"""What a rollout engine asks of vLLM, and in which order; the calls are recorded in place of vLLM."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer.grpo.rollout import Prompt
from fer.grpo.vllm_engine import RolloutEngine, _QueuedPrompt


class RecordingLLM:
    """Records the names of the methods that are called; ``reset_prefix_cache`` returns ``has_reset``."""

    def __init__(self, has_reset: bool = True) -> None:
        self.calls: list[str] = []
        self.has_reset = has_reset
        self.llm_engine = self

    def __getattr__(self, name: str) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return {"reset_prefix_cache": self.has_reset, "step": []}.get(name)

        return record


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict))

    def make(can_sleep: bool, has_reset: bool = True) -> RolloutEngine:
        engine = RolloutEngine.__new__(RolloutEngine)
        engine._thread = ThreadPoolExecutor(1)
        engine.llm = RecordingLLM(has_reset)
        engine._transfer = SimpleNamespace(report="report")
        engine._can_sleep, engine._asleep, engine._loop, engine.version = can_sleep, False, None, 3
        engine.stats = SimpleNamespace(seconds=0.0, tokens=0)
        return engine

    return make


def test_an_update_drops_what_was_computed_with_the_old_weights(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    _, report = asyncio.run(engine.update_weights(4, []))
    assert (report, engine.version) == ("report", 4)
    assert engine.llm.calls == [
        *("start_weight_update", "update_weights", "finish_weight_update"),
        *("reset_prefix_cache", "reset_encoder_cache"),
    ]


def test_an_engine_that_keeps_old_keys_and_values_fails(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False, has_reset=False)
    with pytest.raises(RuntimeError, match="vLLM kept keys and values of the old weights"):
        asyncio.run(engine.update_weights(4, []))
    assert engine.version == 3, "the trainers send the weights again"


def test_a_sleeping_engine_wakes_up_before_anything_else(make_engine: Any) -> None:
    engine = make_engine(can_sleep=True)
    asyncio.run(engine.sleep())
    asyncio.run(engine.update_weights(4, []))
    assert engine.llm.calls[:3] == ["sleep", "wake_up", "start_weight_update"]
    asyncio.run(engine.sleep())
    engine._engine_step([])
    engine._engine_step([])
    assert engine.llm.calls[-4:] == ["sleep", "wake_up", "step", "step"], "once"


def test_an_engine_without_sleep_mode_stays_awake(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    asyncio.run(engine.sleep())
    assert engine.llm.calls == []


def test_the_answers_of_an_evaluation_are_one_each_and_greedy(make_engine: Any) -> None:
    engine = make_engine(can_sleep=False)
    engine.sampling = {"n": 8, "temperature": 0.7, "max_tokens": 5}
    prompt = Prompt("?", np.zeros((2, 2, 3), np.uint8))
    sampled: list[dict[str, Any]] = []
    engine.llm.enqueue = lambda inputs, params, use_tqdm: sampled.append(params) or [f"{len(sampled)}-x"]
    engine._running = {}
    engine._engine_step([_QueuedPrompt(prompt, None, greedy=False), _QueuedPrompt(prompt, None, greedy=True)])  # type: ignore[arg-type]
    assert sampled == [
        {"n": 8, "temperature": 0.7, "max_tokens": 5, "logprobs": 0},
        {"n": 1, "temperature": 0.0, "max_tokens": 5, "logprobs": 0},
    ]
