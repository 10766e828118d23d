"""A model that is replaced while it serves: the new version is loaded beside the old one, then swapped in."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fer.registry import model_name, model_version, resolve_model
from fer.tracking import TrackingOptions
from serve_apps.schema import ModelInfo

log = logging.getLogger("ray.serve")

P = TypeVar("P")
Info = TypeVar("Info", bound=ModelInfo)


@dataclass(frozen=True)
class LoadedModel(Generic[P, Info]):
    """One version of a model in memory."""

    predictor: P
    info: Info


LoadModel = Callable[[Path, str, str], LoadedModel[Any, Any]]
"""Loads the model of a folder, given its name and its version."""


class ReloadableModel:
    """The model that a reference points to.

    The constructor raises UserError if there is none; when a later version can't be loaded, the old one stays.
    """

    def __init__(self, reference: str, tracking: TrackingOptions, load: LoadModel) -> None:
        self.reference, self.tracking, self.load = reference, tracking, load
        self.current = self._load(reference)
        self.error: str | None = None
        """Why the newest version could not be loaded."""
        self._switching = threading.Lock()

    @property
    def pinned(self) -> str:
        """A reference to the version in memory, which stays the same when an alias moves."""
        return pin(self.reference, self.current.info.version)

    def switch(self, reference: str | None = None) -> None:
        """Serve the model of another reference, or the version that the present one now points to.

        If it can't be loaded, the old one stays and ``error`` says why. Thread-safe.
        """
        with self._switching:
            reference = reference or self.reference  # only now: another thread may just have changed it
            try:
                version = model_version(reference, self.tracking)
                if (reference, version) != (self.reference, self.current.info.version):
                    self.current, self.reference = self._load(reference), reference
                    log.warning("now serving %s, version %s", reference, self.current.info.version)
                self.error = None
            except Exception as error:  # an unreachable registry, broken files: nothing may take the server down
                reason = f"{type(error).__name__}: {error}"
                if reason != self.error:
                    log.exception("could not load %s; still serving version %s", reference, self.current.info.version)
                self.error = reason

    async def follow(self, seconds: float) -> None:
        """Every ``seconds``, look up the alias and load its version if it has moved, in a thread. Never returns."""
        while True:
            await asyncio.sleep(seconds)
            if self.reference.startswith("models:/") and "@" in self.reference:
                await asyncio.to_thread(self.switch)

    def _load(self, reference: str) -> LoadedModel[Any, Any]:
        return self.load(*locate(reference, self.tracking))


def locate(reference: str, tracking: TrackingOptions) -> tuple[Path, str, str]:
    """The folder of the version that a reference points to now, the model's name, and the version."""
    version = model_version(reference, tracking)
    return resolve_model(pin(reference, version), tracking), model_name(reference), version


def pin(reference: str, version: str) -> str:
    """The reference, with the version in place of an alias."""
    return f"models:/{model_name(reference)}/{version}" if reference.startswith("models:/") else reference
