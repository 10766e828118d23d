"""A second version of the model beside the one that is served: canary and shadow."""

from __future__ import annotations

import hashlib

from serve_apps.options import ServeConfig
from serve_apps.reloadable_model import LoadModel, ReloadableModel
from serve_apps.schema import InvalidInput, PredictResponse, Role

MAX_SHADOW_BATCHES = 2
"""Batches that wait for the challenger in shadow, at most; a replica that is busier than that compares fewer."""


class Challenger:
    """The challenger answers the clients of its share; in shadow, it answers none, and is compared.

    Raises UserError if there is no such model.
    """

    def __init__(self, config: ServeConfig, load: LoadModel) -> None:
        assert config.challenger
        self.model = ReloadableModel(config.challenger, config, load)
        self.share, self.shadow = config.canary, config.shadow
        self.waiting = 0

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
