"""Metrics by subgroup, such as age, gender or skin tone: of each group, and how far the groups are apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from fer.evaluation.bootstrap import Estimate, with_interval
from fer.evaluation.classification import ClassificationMetrics, ClassificationSums

MIN_ROWS = 20
"""A rate of fewer rows is left out of the gaps: it says little, and the largest of many such gaps says nothing."""


class Gap(BaseModel):
    """How far apart the groups are in a rate, at most."""

    gap: Estimate
    """The highest rate minus the lowest."""
    highest: str
    lowest: str
    rate: str
    """Which rate it is: "accuracy", "recall of fear", "false fear"."""


class SubgroupMetrics(BaseModel):
    """Metrics by the values of one attribute."""

    attribute: str
    groups: dict[str, ClassificationMetrics]
    """By value of the attribute."""
    unknown: int
    """Rows without a value; they are in no group."""
    accuracy: Gap | None
    """None if fewer than two groups have `MIN_ROWS` rows."""
    odds: Gap | None
    """Equalised-odds difference (Hardt et al., NeurIPS 2016): the largest gap of all classes' recalls and false
    positive rates, each class against the others."""


class SubgroupSums:
    """What these metrics need of all rows; ``labels`` are the K names, ``seed`` is the bootstrap's."""

    def __init__(self, labels: Sequence[str], attribute: str, seed: int = 0) -> None:
        self.labels, self.attribute, self.seed = list(labels), attribute, seed
        self.groups: dict[str, ClassificationSums] = {}
        self.unknown = 0

    def update(
        self,
        values: Sequence[str | None],
        true: np.ndarray,
        probabilities: np.ndarray,
        clusters: Sequence[str | None],
    ) -> None:
        """Add rows with their values of the attribute, as `ClassificationSums.update`; ``clusters`` are its groups."""
        for value in {value for value in values if value is not None}:
            rows = [row for row, each in enumerate(values) if each == value]
            sums = self.groups.setdefault(value, ClassificationSums(self.labels, self._seed_of(value)))
            sums.update(true[rows], probabilities[rows], [clusters[row] for row in rows])
        self.unknown += sum(value is None for value in values)

    def compute(self) -> SubgroupMetrics:
        """The metrics of all rows, by group in alphabetical order."""
        groups = {value: self.groups[value] for value in sorted(self.groups)}
        compared = {value: sums for value, sums in groups.items() if sums.rows >= MIN_ROWS}
        accuracy = odds = None
        if len(compared) > 1:
            exact, resampled = zip(*(sums.confusions() for sums in compared.values()), strict=True)
            resamples = min(len(each) for each in resampled)
            confusions = np.stack([exact, *np.stack([each[:resamples] for each in resampled], axis=1)])
            rates, names = class_rates(confusions, self.labels)
            accuracy = largest_gap(accuracies(confusions), ["accuracy"], list(compared))
            odds = largest_gap(rates, names, list(compared))
        return SubgroupMetrics(
            attribute=self.attribute,
            groups={value: sums.compute() for value, sums in groups.items()},
            unknown=self.unknown,
            accuracy=accuracy,
            odds=odds,
        )

    def _seed_of(self, value: str) -> int:
        """Other random numbers for each group, which are independent."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{self.attribute}/{value}".encode()).digest()[:8])


def accuracies(confusions: np.ndarray) -> np.ndarray:
    """Of confusion matrices (S, G, K, K) of S samples and G groups: (S, 1, G)."""
    hits = np.trace(confusions, axis1=2, axis2=3)
    return (hits / confusions.sum(axis=(2, 3)))[:, None]


def class_rates(confusions: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Recalls and false positive rates (S, 2 K, G) of confusion matrices (S, G, K, K), and their names (2 K).

    The first sample is that of the data: a rate of fewer than `MIN_ROWS` of its rows is NaN in all samples.
    """
    hits = np.diagonal(confusions, axis1=2, axis2=3)
    support, predicted = confusions.sum(axis=3), confusions.sum(axis=2)
    others = support.sum(axis=2, keepdims=True) - support
    recalls = np.where(support[0] >= MIN_ROWS, hits / np.maximum(support, 1), np.nan)
    false = np.where(others[0] >= MIN_ROWS, (predicted - hits) / np.maximum(others, 1), np.nan)
    names = [f"recall of {label}" for label in labels] + [f"false {label}" for label in labels]
    return np.concatenate([recalls, false], axis=2).swapaxes(1, 2), names


def largest_gap(rates: np.ndarray, names: Sequence[str], groups: Sequence[str]) -> Gap | None:
    """The largest gap between groups of the rates (S, F, G), of which the first sample is that of the data.

    Every resample has a largest gap of its own. None if no rate has two groups.
    """
    usable = np.isfinite(rates[0]).sum(axis=1) > 1
    if not usable.any():
        return None
    rates, kept = rates[:, usable], [name for name, use in zip(names, usable, strict=True) if use]
    gaps = np.nanmax(rates, axis=2) - np.nanmin(rates, axis=2)
    widest = int(gaps[0].argmax())
    largest = gaps.max(axis=1)
    return Gap(
        gap=with_interval(largest[0], largest[1:], 0, 1),
        highest=groups[int(np.nanargmax(rates[0, widest]))],
        lowest=groups[int(np.nanargmin(rates[0, widest]))],
        rate=kept[widest],
    )
