"""What replicas have observed, as sums: those of several replicas can be added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Self

from fer.classifier.reference import Reference
from serve_apps.schema import Role


class Served(NamedTuple):
    """A version of a model, in a role."""

    model: str
    version: str
    role: Role


@dataclass
class Sums:
    """Sums over observations."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass
class VersionSums(Sums):
    """Of one version: the network's milliseconds per batch, and faces whose true label is known."""

    batches: int = 0
    milliseconds: float = 0.0
    squares: float = 0.0
    labelled: int = 0
    correct: int = 0


@dataclass
class PairSums(Sums):
    """Of the champion and its challenger in shadow, over faces that both have predicted."""

    faces: int = 0
    agreed: int = 0
    labelled: int = 0
    champion_only: int = 0
    """Labelled faces in which only the champion was right."""
    challenger_only: int = 0


@dataclass
class WindowSums:
    """The last faces of one version."""

    reference: Reference
    names: list[str]
    """The model's labels, in the order of the reference."""
    labels: Counter[str] = field(default_factory=Counter)
    confidence: Counter[int] = field(default_factory=Counter)
    """By the reference's bin."""
    since: float = float("inf")
    """When the first of them was predicted, in seconds since 1970."""

    def __add__(self, other: WindowSums) -> WindowSums:
        labels, confidence = self.labels + other.labels, self.confidence + other.confidence
        return WindowSums(self.reference, self.names, labels, confidence, min(self.since, other.since))


@dataclass
class Snapshot:
    """The observations of one replica, or of several."""

    replicas: int = 0
    versions: dict[Served, VersionSums] = field(default_factory=dict)
    pairs: dict[tuple[Served, Served], PairSums] = field(default_factory=dict)
    windows: dict[Served, WindowSums] = field(default_factory=dict)


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The observations of all of these replicas."""
    merged = Snapshot(sum(each.replicas for each in snapshots))
    for name in ("versions", "pairs", "windows"):
        sums = getattr(merged, name)
        for snapshot in snapshots:
            for key, value in getattr(snapshot, name).items():
                sums[key] = sums[key] + value if key in sums else value
    return merged
