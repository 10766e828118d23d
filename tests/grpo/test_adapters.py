"""Adapters that vLLM computes: room for their rank, and layers where it does not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fer.grpo.adapters import _unused_adapters, engine_arguments


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (4, 8), (32, 32), (300, 320), (512, 512)])
def test_an_engine_has_room_for_the_rank(rank: int, room: int) -> None:
    assert engine_arguments(rank, ["language"])["max_lora_rank"] == room


def test_adapters_outside_the_language_model_are_asked_for() -> None:
    assert not engine_arguments(8, ["language"])["enable_tower_connector_lora"]
    assert engine_arguments(8, ["projector", "language"])["enable_tower_connector_lora"]


def test_layers_that_vllm_leaves_out_are_named() -> None:
    adapter = SimpleNamespace(loras={"language.q": 1, "visual.merger": 1})
    manager = SimpleNamespace(modules={"language.q": 1, "language.o": 1}, get_adapter=lambda number: adapter)
    runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    assert _unused_adapters(SimpleNamespace(model_runner=runner)) == ["visual.merger"]
