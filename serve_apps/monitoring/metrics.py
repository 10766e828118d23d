"""Metrics of the classifier, beside those of Ray Serve: Prometheus reads them from Ray's metrics port on each node."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from fer.evaluation.drift import Drift
from serve_apps.monitoring.observations import Response
from serve_apps.monitoring.snapshot import Served
from serve_apps.schema import FacePrediction, InvalidInput, PredictResponse

MILLISECONDS = [1.0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
COUNTS = [1.0, 2, 3, 4, 6, 8, 12, 16, 32, 64]
TAGS = ("model", "version", "role")


class ClassifierMetrics:
    """What a replica reports about its responses. Every metric has the model's name, version and role as tags."""

    def __init__(self) -> None:
        self.stages = Histogram("fer_stage_ms", "Time of a request's stage", MILLISECONDS, (*TAGS, "stage"))
        self.batch_size = Histogram("fer_batch_size", "Requests in a batch", COUNTS, TAGS)
        self.faces_per_image = Histogram("fer_faces_per_image", "Faces found in an image", COUNTS, TAGS)
        self.faces = Counter("fer_faces", "Faces by their most probable label", (*TAGS, "label"))
        self.uncertain = Counter("fer_uncertain_faces", "Faces with a confidence below --min-confidence", TAGS)
        self.no_face = Counter("fer_images_without_face", "Images in which no face was found", TAGS)
        self.invalid = Counter("fer_invalid_requests", "Requests with an image that can't be decoded", TAGS)
        self.labelled = Counter(
            "fer_labelled_faces", "Faces whose true label is known from feedback", (*TAGS, "correct")
        )
        self.shadow_faces = Counter(
            "fer_shadow_faces", "Faces that the challenger predicted in shadow", (*TAGS, "champion_version", "agrees")
        )
        self.shadow_skipped = Counter(
            "fer_shadow_skipped_requests", "Requests that the challenger was too slow for", TAGS
        )
        self.drift = Gauge("fer_drift_psi", "Population stability index of a replica's last faces", (*TAGS, "of"))
        self.drift_chance = Gauge(
            "fer_drift_psi_chance", "Index that chance exceeds in 5% of the samples", (*TAGS, "of")
        )

    def record(self, responses: list[Response], served: Served) -> None:
        """Record a batch of responses. They say what was answered, never what was sent."""
        tags = served._asdict()
        self.batch_size.observe(len(responses), tags)
        for response in responses:
            if isinstance(response, InvalidInput):
                self.invalid.inc(1, tags)
                continue
            for stage, milliseconds in response.timing.model_dump(exclude={"waiting"}).items():
                self.stages.observe(milliseconds, tags | {"stage": stage})
            for image in response.images:
                self._record_image(image.faces, tags)

    def record_waiting(self, response: PredictResponse) -> None:
        """Record how long a request has waited, which is known when the rest of it is."""
        tags = {"model": response.model.name, "version": response.model.version, "role": response.role}
        self.stages.observe(response.timing.waiting, tags | {"stage": "waiting"})

    def record_agreement(self, agreed: int, faces: int, champion: Served, challenger: Served) -> None:
        """Record in how many of ``faces`` faces the challenger agreed in shadow."""
        tags = {**challenger._asdict(), "champion_version": champion.version}
        for agrees, count in (("true", agreed), ("false", faces - agreed)):
            if count:  # a counter rejects 0
                self.shadow_faces.inc(count, tags | {"agrees": agrees})

    def record_skipped(self, requests: int, challenger: Served) -> None:
        """Record requests that the challenger was too slow for."""
        self.shadow_skipped.inc(requests, challenger._asdict())

    def record_feedback(self, predicted: Mapping[Served, str], label: str) -> None:
        """Record what versions had predicted for a face, given its true label."""
        for served, name in predicted.items():
            self.labelled.inc(1, {**served._asdict(), "correct": str(name == label).lower()})

    def record_drift(self, served: Served, drifts: Mapping[str, Drift | None]) -> None:
        """Set the gauges of a version; without drift, to NaN: the version is not served any more."""
        for of, drift in drifts.items():
            tags = {**served._asdict(), "of": of}
            self.drift.set(drift.psi.value if drift else math.nan, tags)
            self.drift_chance.set(drift.chance if drift else math.nan, tags)

    def _record_image(self, faces: list[FacePrediction], tags: dict[str, str]) -> None:
        self.faces_per_image.observe(len(faces), tags)
        if not faces:
            self.no_face.inc(1, tags)
        for face in faces:
            if face.label:
                self.faces.inc(1, tags | {"label": face.label})
            if face.uncertain:
                self.uncertain.inc(1, tags)
