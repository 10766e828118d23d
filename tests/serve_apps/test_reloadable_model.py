"""Reloading a model, without a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fer.errors import UserError
from fer.registry import model_version, promote
from fer.tracking import TrackingOptions
from serve_apps.classifier.inference import load_classifier
from serve_apps.options import ServeConfig
from serve_apps.reloadable_model import ReloadableModel

load = partial(load_classifier, config=ServeConfig(model="unused", device="cpu"))


def test_a_missing_model_is_a_user_error(registry: TrackingOptions) -> None:
    with pytest.raises(UserError, match="no alias 'best'"):
        ReloadableModel("models:/face@best", registry, load)


def test_it_follows_its_alias_and_keeps_the_old_version_when_the_new_one_is_broken(registry: TrackingOptions) -> None:
    promote("face", "1", "followed", registry)
    model = ReloadableModel("models:/face@followed", registry, load)
    assert (model.current.info.name, model.current.info.version) == ("face", "1")

    async def scenario() -> None:
        following = asyncio.create_task(model.follow(0.02))
        promote("face", "2", "followed", registry)
        await until(lambda: model.current.info.version == "2")
        promote("face", "3", "followed", registry)
        await until(lambda: model.error is not None)
        assert model.current.info.version == "2"
        promote("face", "1", "followed", registry)
        await until(lambda: model.current.info.version == "1" and model.error is None)
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    asyncio.run(scenario())


def test_it_switches_to_another_reference(
    registry: TrackingOptions, make_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    model = ReloadableModel("models:/face/1", registry, load)
    model.switch(str(make_classifier(tmp_path / "a-run" / "model", "basic")))
    assert model.current.info.name == "a-run"
    assert model.current.predictor.predict([np.zeros((8, 8, 3), np.uint8)]).probabilities is not None
    model.switch("models:/face/9")
    assert "no version '9'" in str(model.error)
    assert model.current.info.name == "a-run"


def test_a_look_up_of_the_alias_does_not_undo_a_switch_to_another_reference(
    registry: TrackingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote("face", "1", "first", registry)
    model = ReloadableModel("models:/face@first", registry, load)
    looking, go_on = threading.Event(), threading.Event()

    def slow_look_up(reference: str, tracking: TrackingOptions) -> str:
        if reference == "models:/face@first":
            looking.set()
            assert go_on.wait(60)
        return model_version(reference, tracking)

    monkeypatch.setattr("serve_apps.reloadable_model.model_version", slow_look_up)

    async def scenario() -> None:
        following = asyncio.create_task(model.follow(0.01))
        await asyncio.to_thread(looking.wait, 60)
        switching = asyncio.create_task(asyncio.to_thread(model.switch, "models:/face/2"))
        await asyncio.wait([switching], timeout=0.5)
        go_on.set()
        await switching
        following.cancel()

    asyncio.run(scenario())  # waits for the threads
    assert (model.reference, model.current.info.version) == ("models:/face/2", "2")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)
