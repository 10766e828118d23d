"""Drift of the answers from the model's predictions on its validation split: report and schema."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from fer.evaluation.drift import Drift, measure_drift
from serve_apps.monitoring.snapshot import Served, Snapshot, WindowSums
from serve_apps.schema import Role, Schema


class LabelShare(Schema):
    """Share of the faces with a label, 0 to 1."""

    label: str
    served: float
    reference: float


class VersionDrift(Schema):
    """The last faces that one version has answered, compared with its validation split."""

    model: str
    version: str
    role: Role
    faces: int
    since: datetime = Field(description="When the first of these faces was answered")
    labels: Drift = Field(description="Of the predicted labels")
    confidence: Drift = Field(description="Of the confidence, in up to ten bins with equal shares of the reference")
    shares: list[LabelShare]


class DriftReport(Schema):
    """Versions whose model folder has a reference, and that have answered a face."""

    replicas: int = Field(description="Replicas whose answers are in the report; each keeps its last 5,000 faces")
    versions: list[VersionDrift]


def drift_report(snapshot: Snapshot) -> DriftReport:
    """The report for all versions that have answered a face."""
    versions = [version_drift(served, window) for served, window in snapshot.windows.items() if window.labels]
    return DriftReport(replicas=snapshot.replicas, versions=versions)


def version_drift(served: Served, window: WindowSums) -> VersionDrift:
    """The drift of one version, of whose faces there is at least one."""
    reference, faces, total = window.reference, window.labels.total(), sum(window.reference.labels)
    counts = [window.labels[name] for name in window.names]
    return VersionDrift(
        **served._asdict(),
        faces=faces,
        since=datetime.fromtimestamp(window.since, UTC),
        labels=measure_drift(counts, reference.labels),
        confidence=measure_drift(
            [window.confidence[number] for number in range(len(reference.confidence))], reference.confidence
        ),
        shares=[
            LabelShare(label=label, served=count / faces, reference=expected / total)
            for label, count, expected in zip(window.names, counts, reference.labels, strict=True)
        ],
    )
