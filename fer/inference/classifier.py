"""A classifier as an inference client: its response is the most probable of a request's candidate labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer.classifier.predictor import Predictor
from fer.data.images import decode_rgb
from fer.errors import BadRow, UserError
from fer.inference.base import InferenceClient, Request, Response, SamplingParams
from fer.labels import LabelSpace


class ClassifierClient(InferenceClient):
    """Ignores the prompt: it uses a request's image and candidate labels only.

    Candidate labels are matched to the classifier's own labels by name or by emotion; one without a match is never
    the response.
    """

    max_running = 64

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.predictor = Predictor([folder], device)
        if not self.predictor.has_expression:
            raise UserError(f"{folder} predicts valence and arousal only: it has no labels to respond with")

    def stream(self, pending: deque[tuple[int, Request]], sampling: SamplingParams) -> Iterator[tuple[int, Response]]:
        """Raises UserError if the classifier knows none of a request's candidate labels."""
        while pending:
            batch = [pending.popleft() for _ in range(min(len(pending), self.max_running))]
            requests, images = [], []
            for number, request in batch:
                try:
                    images.append(decode_rgb(request.image))
                    requests.append((number, request))
                except BadRow as error:
                    yield number, Response("", error=str(error))
            probabilities = self.predictor.predict(images).probabilities
            assert probabilities is not None
            for (number, request), row in zip(requests, probabilities, strict=True):
                yield number, Response(f"<answer>{self._best_label(request.labels, row)}</answer>")

    def _best_label(self, candidates: tuple[str, ...], probabilities: np.ndarray) -> str:
        space = self.predictor.space
        known = {label: index for label in candidates if (index := _index(space, label)) is not None}
        if not known:
            raise UserError(
                f"the model knows none of the candidate labels ({', '.join(candidates)}); "
                f"it knows {', '.join(space.labels)}"
            )
        return max(known, key=lambda label: probabilities[known[label]])


def _index(space: LabelSpace, label: str) -> int | None:
    try:
        return space.index(space.resolve(label))
    except BadRow:
        return None
