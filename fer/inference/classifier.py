"""A classifier that answers questions: the most probable of the candidate labels, in the form of an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer.classifier.predictor import Predictor
from fer.data.images import decode_rgb
from fer.errors import BadRow, UserError
from fer.inference.base import Answer, Answerer, Ask, Sampling
from fer.labels import LabelSpace

BATCH = 64


class ClassifierAnswerer(Answerer):
    """Reads no words: of a question it takes the image and the candidate labels.

    Labels are mapped to the classifier's own by name or emotion; those that it does not have are never answered.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.predictor = Predictor([folder], device)
        if not self.predictor.has_expression:
            raise UserError(f"{folder} gives valence and arousal only: it can't answer with a label")

    def stream(self, pending: deque[tuple[int, Ask]], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Raises UserError for candidate labels of which the classifier has none."""
        while pending:
            batch = [pending.popleft() for _ in range(min(len(pending), BATCH))]
            probabilities = self.predictor([decode_rgb(ask.image) for _, ask in batch]).probabilities
            assert probabilities is not None
            for (number, ask), row in zip(batch, probabilities, strict=True):
                yield number, Answer(f"<answer>{self._best(ask.labels, row)}</answer>")

    def _best(self, candidates: tuple[str, ...], probabilities: np.ndarray) -> str:
        own = self.predictor.space
        known = {label: index for label in candidates if (index := _index(own, label)) is not None}
        if not known:
            raise UserError(
                f"the model knows none of the candidate labels ({', '.join(candidates)}); "
                f"it knows {', '.join(own.labels)}"
            )
        return max(known, key=lambda label: probabilities[known[label]])


def _index(space: LabelSpace, label: str) -> int | None:
    try:
        return space.index(space.resolve(label))
    except BadRow:
        return None
