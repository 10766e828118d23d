"""A second version of the model beside the one that is served: canary and shadow."""

from __future__ import annotations

import asyncio
import hashlib
import logging

from fer.registry import canary_share
from serve_apps.options import ServeConfig
from serve_apps.reloadable_model import LoadModel, ReloadableModel
from serve_apps.schema import InvalidInput, PredictResponse, Role

log = logging.getLogger("ray.serve")

MAX_SHADOW_BATCHES = 2
"""Batches that wait for the challenger in shadow, at most; a replica that is busier than that compares fewer."""


class Challenger:
    """The challenger answers the clients of its share; in shadow, it answers none, and is compared.

    Raises UserError if there is no such model.
    """

    def __init__(self, config: ServeConfig, load: LoadModel) -> None:
        assert config.challenger
        self.config = config
        self.model = ReloadableModel(config.challenger, config, load)
        self.share, self.shadow = config.canary, config.shadow
        self.share_error: str | None = None
        self.waiting = 0
        self.update_share()

    async def follow_share(self, seconds: float) -> None:
        """Every ``seconds``, look up the share. Never returns."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.update_share)

    def update_share(self) -> None:
        """Take the share that `fer promote --canary` has set for the version in memory, else that of the options."""
        if self.shadow:
            return
        try:
            share = canary_share(self.model.pinned, self.config)
            share = self.config.canary if share is None else share
            if share != self.share:
                log.warning("the challenger now answers %.0f%% of the clients", 100 * share)
            self.share, self.share_error = share, None
        except Exception as error:  # an unreachable registry: nothing may take the server down
            if str(error) != self.share_error:
                log.exception("could not look up the challenger's share; it stays %s", self.share)
            self.share_error = str(error)

    def role(self, client: str) -> Role:
        """Who answers a client; always the same one while the share does not change."""
        place = int.from_bytes(hashlib.sha256(client.encode()).digest()[:8]) / 2**64
        return "challenger" if place < self.share else "champion"


def agreement(
    champion: list[PredictResponse | InvalidInput], challenger: list[PredictResponse | InvalidInput]
) -> tuple[int, int]:
    """In how many faces both have the same label, and the number of faces. Both have the same images and detector."""
    labels = [
        (first.label, second.label)
        for one, other in zip(champion, challenger, strict=True)
        if isinstance(one, PredictResponse) and isinstance(other, PredictResponse)
        for image, same_image in zip(one.images, other.images, strict=True)
        for first, second in zip(image.faces, same_image.faces, strict=True)
    ]
    return sum(first == second for first, second in labels), len(labels)
