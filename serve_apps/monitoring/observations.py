"""What one replica has answered: the lately predicted labels of each version, and how versions compare."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

from fer.classifier.reference import Reference
from serve_apps.monitoring.snapshot import PairSums, Served, Snapshot, VersionSums, WindowSums
from serve_apps.schema import InvalidInput, PredictResponse

Response = PredictResponse | InvalidInput
WINDOW = 5000
"""Faces of a version, the last ones, that a replica compares with the reference."""
VERSIONS = 8
"""Versions, the last ones, that a replica has windows of."""
RECENT_SECONDS = 600
"""Time without an answer after which the gauges of a version end."""
RECENT = 5000
"""Requests, the last ones, whose labels a replica keeps for feedback."""
MAX_ID = 128
"""Characters of a request id, at most; requests with a longer one get no feedback."""


class Answered(NamedTuple):
    """What a version has answered to a request."""

    faces: list[list[str | None]]
    """The label of each face in each image."""
    labels: list[str]
    """Those of the model."""

    def places(self) -> list[tuple[int, int]]:
        """The numbers of each face and of its image."""
        return [(image, face) for image, faces in enumerate(self.faces) for face in range(len(faces))]


class Labelled(NamedTuple):
    """A face with its true label."""

    predicted: dict[Served, str]
    labels: list[str]
    """Those of the model; the true one has to be one of them."""


class Window:
    """The last faces of one version with their labels, confidence bins and times."""

    def __init__(self, reference: Reference, names: list[str], size: int) -> None:
        self.reference, self.names = reference, names
        self.faces: deque[tuple[str, int, float]] = deque(maxlen=size)

    def add(self, response: PredictResponse, now: float) -> None:
        for image in response.images:
            for face in image.faces:
                if face.label is not None and face.confidence is not None:
                    self.faces.append((face.label, self.reference.confidence_bin(face.confidence), now))

    def is_recent(self) -> bool:
        """Whether the version has answered a face lately; one that was replaced has not."""
        return bool(self.faces) and time.time() - self.faces[-1][2] < RECENT_SECONDS

    def sums(self) -> WindowSums:
        labels, bins = Counter(face[0] for face in self.faces), Counter(face[1] for face in self.faces)
        return WindowSums(self.reference, self.names, labels, bins, self.faces[0][2] if self.faces else float("inf"))


class Observations:
    """The observations of one replica. Labels stay in memory; images are not kept."""

    def __init__(self, window: int = WINDOW, recent: int = RECENT) -> None:
        self.window_size, self.recent_size = window, recent
        self.versions: defaultdict[Served, VersionSums] = defaultdict(VersionSums)
        self.pairs: defaultdict[tuple[Served, Served], PairSums] = defaultdict(PairSums)
        self.windows: OrderedDict[Served, Window] = OrderedDict()
        self.recent: OrderedDict[str, dict[Served, Answered]] = OrderedDict()
        self.labelled: set[tuple[str, int, int]] = set()

    def record(
        self, served: Served, reference: Reference | None, request_ids: Sequence[str], responses: Sequence[Response]
    ) -> None:
        """Record a batch of responses of one version to the requests with these ids."""
        now, spent = time.time(), None
        for request_id, response in zip(request_ids, responses, strict=True):
            if isinstance(response, PredictResponse):
                self._remember(request_id, served, response)
                if reference is not None:
                    self._window(served, reference, response.model.labels).add(response, now)
                spent = response.timing.model  # of the whole batch
        if spent is not None:
            self.versions[served] += VersionSums(batches=1, milliseconds=spent, squares=spent**2)

    def record_agreement(self, champion: Served, challenger: Served, agreed: int, faces: int) -> None:
        self.pairs[champion, challenger] += PairSums(faces=faces, agreed=agreed)

    def add_feedback(self, request_id: str, image: int, face: int, label: str) -> Labelled | None:
        """Record the true label of a face, if it is one of the model's; return what the versions predicted.

        None if this replica knows no such face, or its label has been recorded before.
        """
        answers = self.recent.get(request_id, {})
        predicted = {
            served: answer.faces[image][face]
            for served, answer in answers.items()
            if image < len(answer.faces) and face < len(answer.faces[image])
        }
        known = {served: name for served, name in predicted.items() if name is not None}
        if not known or (request_id, image, face) in self.labelled:
            return None
        labelled = Labelled(known, answers[next(iter(known))].labels)
        if label not in labelled.labels:
            return labelled
        self.labelled.add((request_id, image, face))
        for served, name in known.items():
            self.versions[served] += VersionSums(labelled=1, correct=int(name == label))
        by_role = {served.role: served for served in known}
        if len(by_role) == 2:
            champion, challenger = by_role["champion"], by_role["challenger"]
            first, second = known[champion] == label, known[challenger] == label
            self.pairs[champion, challenger] += PairSums(
                labelled=1, champion_only=int(first and not second), challenger_only=int(second and not first)
            )
        return labelled

    def snapshot(self) -> Snapshot:
        windows = {served: window.sums() for served, window in self.windows.items()}
        return Snapshot(1, dict(self.versions), dict(self.pairs), windows)

    def _window(self, served: Served, reference: Reference, names: list[str]) -> Window:
        """The window of a version; that of the one that has not answered for longest makes room."""
        if served not in self.windows:
            self.windows[served] = Window(reference, names, self.window_size)
        self.windows.move_to_end(served)
        while len(self.windows) > VERSIONS:
            self.windows.popitem(last=False)
        return self.windows[served]

    def _remember(self, request_id: str, served: Served, response: PredictResponse) -> None:
        if not 0 < len(request_id) <= MAX_ID:
            return
        faces = [[face.label for face in image.faces] for image in response.images]
        self.recent.setdefault(request_id, {})[served] = Answered(faces, response.model.labels)
        while len(self.recent) > self.recent_size:
            oldest, answers = self.recent.popitem(last=False)
            self.labelled -= {(oldest, *place) for answer in answers.values() for place in answer.places()}
