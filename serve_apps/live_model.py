"""A model that can be exchanged while it answers: loaded beside the old one, then swapped in one assignment."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from fer.classifier.predictor import Predictor
from fer.tracking import TrackingOptions, model_version, resolve_model
from serve_apps.schema import ModelInfo

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Loaded:
    """One version in memory."""

    predictor: Predictor
    info: ModelInfo


class LiveModel:
    """The version that a reference means now. Raises at construction if there is none; later failures keep the old."""

    def __init__(self, reference: str, tracking: TrackingOptions, device: str) -> None:
        self.reference, self.tracking, self.device = reference, tracking, device
        self.current = self._load(reference)
        self.error: str | None = None

    def switch(self, reference: str) -> None:
        """Serve what another reference means; the old model goes on answering if that can't be loaded."""
        self._try(reference)

    async def follow(self, seconds: float) -> None:
        """Look every so many seconds whether the alias has moved, for ever; load in a thread, beside the requests."""
        while True:
            await asyncio.sleep(seconds)
            if "@" in self.reference:
                await asyncio.to_thread(self._try, self.reference)

    def _try(self, reference: str) -> None:
        try:
            version = model_version(reference, self.tracking)
            if (reference, version) != (self.reference, self.current.info.version):
                self.current, self.reference = self._load(reference), reference
                log.warning("now serving %s, version %s", reference, self.current.info.version)
            self.error = None
        except Exception as error:  # a registry that is away, files that are broken: anything must leave the server up
            reason = f"{type(error).__name__}: {error}"
            if reason != self.error:
                log.exception("could not load %s; version %s goes on", reference, self.current.info.version)
            self.error = reason

    def _load(self, reference: str) -> Loaded:
        version = model_version(reference, self.tracking)
        fixed = f"models:/{_name(reference)}/{version}" if "@" in reference else reference
        return self.open(resolve_model(fixed, self.tracking), _name(reference), version)

    def open(self, folder: Path, name: str, version: str) -> Loaded:
        """Load the model of a folder."""
        predictor = Predictor([folder], device=self.device)
        spec = predictor.specs[0]
        info = ModelInfo(
            name=name,
            version=version,
            label_space=spec.label_space,
            labels=spec.labels if predictor.has_expression else [],
            head=spec.options.head,
            img_size=spec.options.img_size,
        )
        return Loaded(predictor, info)


def _name(reference: str) -> str:
    """What a model is called: its registered name, its run's id, or its folder's name."""
    if reference.startswith(("models:/", "runs:/")):
        return reference.partition(":/")[2].partition("@")[0].partition("/")[0]
    folder = Path(reference)
    return folder.parent.name if folder.name == "model" else folder.name
