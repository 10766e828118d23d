"""Metrics of the classifier, beside those of Ray Serve: Prometheus reads them from Ray's metrics port on each node."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from serve_apps.schema import FacePrediction, InvalidInput, ModelInfo, PredictResponse

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
        self.shadow_faces = Counter("fer_shadow_faces", "Faces that the challenger predicted in shadow", ("agrees",))
        self.shadow_skipped = Counter("fer_shadow_skipped_requests", "Requests that the challenger was too slow for")

    def record(self, responses: list[PredictResponse | InvalidInput], model: ModelInfo, role: str) -> None:
        """Record a batch of responses. They say what was answered, never what was sent."""
        tags = {"model": model.name, "version": model.version, "role": role}
        self.batch_size.observe(len(responses), tags)
        for response in responses:
            if isinstance(response, InvalidInput):
                self.invalid.inc(1, tags)
                continue
            for stage, milliseconds in response.timing.model_dump().items():
                self.stages.observe(milliseconds, tags | {"stage": stage})
            for image in response.images:
                self._record_image(image.faces, tags)

    def record_agreement(self, agreed: int, faces: int) -> None:
        """Record in how many of ``faces`` faces the challenger agreed in shadow."""
        self.shadow_faces.inc(agreed, {"agrees": "true"})
        self.shadow_faces.inc(faces - agreed, {"agrees": "false"})

    def _record_image(self, faces: list[FacePrediction], tags: dict[str, str]) -> None:
        self.faces_per_image.observe(len(faces), tags)
        if not faces:
            self.no_face.inc(1, tags)
        for face in faces:
            if face.label:
                self.faces.inc(1, tags | {"label": face.label})
            if face.uncertain:
                self.uncertain.inc(1, tags)
