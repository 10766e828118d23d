"""Models by name: what they are called, and which of them are in memory."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.errors import UserError
from fer.tracking import TrackingOptions
from serve_apps.applications import resolve_paths
from serve_apps.classifier.named_models import NamedModels, by_name, expand, name_of
from serve_apps.classifier.replica import BatchItem, Classifier
from serve_apps.options import ServeConfig
from serve_apps.reloadable_model import LoadedModel
from serve_apps.schema import InvalidInput, ModelInfo, PredictResponse

PNG = encode_png(np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8))


@pytest.fixture
def config(registry: TrackingOptions) -> ServeConfig:
    return ServeConfig(
        **registry.model_dump(), model="models:/face@champion", detector="none", device="cpu",
        models=["face@challenger", "face@broken", "ferry-small"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "whole", "name"),
    [
        ("face@champion", "models:/face@champion", "face@champion"),
        ("face@3", "models:/face/3", "face@3"),
        ("models:/face/3", "models:/face/3", "face@3"),
        ("models:/face@champion", "models:/face@champion", "face@champion"),
        ("ferry-small", "ferry-small", "ferry-small"),
        ("runs:/0a1b/model", "runs:/0a1b/model", "0a1b"),
        ("/data/a@b/first/model", "/data/a@b/first/model", "first"),
    ],
)
def test_names_and_references(reference: str, whole: str, name: str) -> None:
    assert expand(reference) == whole
    assert name_of(whole) == name


def test_two_models_of_one_name_are_a_user_error() -> None:
    assert by_name(["face@1", "models:/face/1"]) == {"face@1": "models:/face/1"}
    with pytest.raises(UserError, match="two models are called 'first': /a/first and /b/first/model"):
        by_name(["/a/first", "/b/first/model"])


def test_references_become_absolute_and_a_missing_one_is_a_user_error(config: ServeConfig) -> None:
    resolved = resolve_paths(config)
    assert resolved.models[:2] == ["models:/face@challenger", "models:/face@broken"]
    assert Path(resolved.models[2]).is_absolute()
    with pytest.raises(UserError, match="no alias 'other'"):
        resolve_paths(config.model_copy(update={"models": ["face@other"]}))


def test_the_model_that_was_not_used_for_longest_makes_room(registry: TrackingOptions) -> None:
    loads: list[str] = []

    def load(folder: Path, name: str, version: str) -> LoadedModel:
        time.sleep(0.02)
        loads.append(version)
        return LoadedModel(None, ModelInfo(name=name, version=version))

    config = ServeConfig(**registry.model_dump(), reload_seconds=0.05)
    references = by_name(["face@1", "face@2", "face@3", "face@9"])

    async def main() -> None:
        named = NamedModels(references, 2, config, load)
        first, again = await asyncio.gather(named.get("face@1"), named.get("face@1"))
        assert first is again
        await named.get("face@2")
        await named.get("face@1")
        await named.get("face@3")
        assert loads == ["1", "2", "3"]
        assert list(named.loaded) == ["face@1", "face@3"]
        await named.get("face@2")
        assert list(named.loaded) == ["face@3", "face@2"]
        assert first.current.info.version == "1", "requests that use it still can"
        with pytest.raises(UserError):
            await named.get("face@9")
        assert list(named.loaded) == ["face@3", "face@2"], "a model that can't be loaded takes no other's place"
        async with asyncio.timeout(60):  # aliases of models that are gone are not followed
            while len(asyncio.all_tasks()) > 1 + 2:
                await asyncio.sleep(0.01)
        for task in named._followers.values():
            task.cancel()

    asyncio.run(main())


def test_a_batch_of_several_models_and_a_broken_one(config: ServeConfig) -> None:
    async def main() -> tuple[list[PredictResponse], list[InvalidInput], list[str]]:
        replica = Classifier(config, [])
        names = ["face@challenger", None, "ferry-small", "face@champion", "face@challenger"]
        models = [await replica.choose(name, "") for name in names]
        refused = [await replica.choose(name, "") for name in ("face@broken", "face@1", "")]
        predict_batch = Classifier.predict_batch.__wrapped__  # without the queue, which needs a Serve replica
        responses = await predict_batch(replica, [BatchItem([PNG], model, "") for model in models])
        described = [f"{model.id} {model.name} {model.version}" for model in replica.named.describe()]
        for task in replica.named._followers.values():
            task.cancel()
        return responses, refused, described  # type: ignore[return-value]

    responses, refused, described = asyncio.run(main())
    assert [each.model.name for each in responses] == ["face", "face", "ferry-small", "face", "face"]
    assert [each.model.version for each in responses if each.model.name == "face"] == ["2", "1", "1", "2"]
    assert {each.role for each in responses} == {"champion"}
    assert [each.status for each in refused] == [503, 404, 404]
    assert described[:2] == ["face@challenger face 2", "face@broken face 3"]
    assert described[2].startswith("ferry-small ferry-small ")
