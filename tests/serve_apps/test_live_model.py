"""Exchanging a model while it answers, without a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer.errors import UserError
from fer.tracking import TrackingOptions, promote
from serve_apps.live_model import LiveModel


def test_it_starts_only_with_a_model(registry: TrackingOptions) -> None:
    with pytest.raises(UserError, match="no alias 'best'"):
        LiveModel("models:/face@best", registry, "cpu")


def test_it_follows_its_alias_and_keeps_the_old_model_when_the_new_one_is_broken(registry: TrackingOptions) -> None:
    promote("face", "1", "followed", registry)
    live = LiveModel("models:/face@followed", registry, "cpu")
    assert (live.current.info.name, live.current.info.version) == ("face", "1")

    async def scenario() -> None:
        following = asyncio.create_task(live.follow(0.02))
        promote("face", "2", "followed", registry)
        await until(lambda: live.current.info.version == "2")
        promote("face", "3", "followed", registry)
        await until(lambda: live.error is not None)
        assert live.current.info.version == "2"
        promote("face", "1", "followed", registry)
        await until(lambda: live.current.info.version == "1" and live.error is None)
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    asyncio.run(scenario())


def test_it_switches_to_another_reference(
    registry: TrackingOptions, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    live = LiveModel("models:/face/1", registry, "cpu")
    live.switch(str(make_model(tmp_path / "a-run" / "model")))
    assert live.current.info.name == "a-run"
    assert live.current.predictor.predict([np.zeros((8, 8, 3), np.uint8)]).probabilities is not None
    live.switch("models:/face/9")
    assert "no version '9'" in str(live.error)
    assert live.current.info.name == "a-run"


async def until(holds) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)
