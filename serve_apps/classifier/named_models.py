"""Models that requests choose by name, beside the one that is served: each is loaded when it is first asked for."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from fer.classifier.spec import ModelSpec
from fer.errors import UserError
from fer.models.folder import read_spec
from fer.registry import model_name
from serve_apps.options import ServerOptions
from serve_apps.reloadable_model import LoadModel, ReloadableModel, locate
from serve_apps.schema import NamedModel

log = logging.getLogger("ray.serve")


def expand(reference: str) -> str:
    """``face@champion`` is short for models:/face@champion, and ``face@3`` for models:/face/3."""
    name, at, which = reference.partition("@")
    if not at or "/" in reference:
        return reference
    return f"models:/{name}/{which}" if which.isdigit() else f"models:/{reference}"


def name_of(reference: str) -> str:
    """What requests call a model: NAME@ALIAS, NAME@VERSION, the id of a run, or the name of a folder."""
    if reference.startswith("models:/"):
        return reference.removeprefix("models:/").replace("/", "@")
    return model_name(reference)


def by_name(references: Sequence[str]) -> dict[str, str]:
    """Names and the references that they stand for. Raises UserError for two models of one name."""
    found: dict[str, str] = {}
    for reference in map(expand, references):
        if found.setdefault(name_of(reference), reference) != reference:
            raise UserError(
                f"two models are called {name_of(reference)!r}: {found[name_of(reference)]} and {reference}"
            )
    return found


class NamedModels:
    """At most ``size`` models are in memory, and one more while it is loaded. Aliases are followed.

    The model that was not used for longest makes room.
    """

    def __init__(self, references: Mapping[str, str], size: int, config: ServerOptions, load: LoadModel) -> None:
        self.references, self.size, self.config, self.load = references, size, config, load
        self.loaded: OrderedDict[str, ReloadableModel] = OrderedDict()
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._loading = asyncio.Lock()

    async def get(self, name: str) -> ReloadableModel:
        """The model; others are not held up while it is loaded. Raises what loading raises."""
        if name not in self.loaded:
            async with self._loading:
                if name not in self.loaded:
                    await self._load(name)
        self.loaded.move_to_end(name)
        return self.loaded[name]

    def describe(self) -> list[NamedModel]:
        """All models, without loading them; those that can't be found now are left out, with a message in the log."""
        from serve_apps.classifier.inference import classifier_info

        found = []
        for name, reference in self.references.items():
            try:
                folder, model, version = locate(reference, self.config)
                info = classifier_info(read_spec(folder, ModelSpec), model, version)
                found.append(NamedModel(id=name, **info.model_dump()))
            except Exception:
                log.exception("could not find %s", reference)
        return found

    async def _load(self, name: str) -> None:
        model = await asyncio.to_thread(ReloadableModel, self.references[name], self.config, self.load)
        while len(self.loaded) >= self.size:  # only now: one that can't be loaded takes no other's place
            oldest, _ = self.loaded.popitem(last=False)
            self._followers.pop(oldest).cancel()
        self._followers[name] = asyncio.create_task(model.follow(self.config.reload_seconds))
        self.loaded[name] = model
