"""Paired comparison of models on the questions that they share, in the strict protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel
from scipy.stats import binomtest

from fer.evaluation.bootstrap import Estimate, resample_counts, with_interval
from fer.ferbench.collect import ModelResults
from fer.ferbench.predictions import predicted_labels

Correctness = Mapping[tuple[str, str, int], bool]
"""Whether the response to each question is correct; keyed by data set, image, and number among those of the image."""


class Comparison(BaseModel):
    """Two models on the questions that they share."""

    first: str
    second: str
    questions: int
    difference: Estimate
    """Accuracy of the first minus that of the second, in [-1, 1], with a paired bootstrap interval."""
    only_first: int
    """Questions that only the first model answers correctly."""
    only_second: int
    p: float
    """p-value of McNemar's exact test (McNemar, 1947) that neither is correct more often."""
    adjusted_p: float
    """Adjusted for all pairs by Holm's method (1979)."""


def compare_models(models: Sequence[ModelResults], seed: int = 0) -> list[Comparison]:
    """All pairs of models that share questions, in the order of the models."""
    correct = {model.name: _correctness(model) for model in models}
    found = [_compare_pair(one, other, correct[one], correct[other], seed) for one, other in combinations(correct, 2)]
    pairs = [comparison for comparison in found if comparison is not None]
    for comparison, adjusted in zip(pairs, holm([pair.p for pair in pairs]), strict=True):
        comparison.adjusted_p = adjusted
    return pairs


def _correctness(model: ModelResults) -> Correctness:
    correct: dict[tuple[str, str, int], bool] = {}
    for file in model.files:
        predicted = predicted_labels(file, "strict")
        assert predicted is not None
        seen: Counter[str] = Counter()
        for result, label in zip(file.results, predicted, strict=True):
            correct[file.name, result.path, seen[result.path]] = label == result.label
            seen[result.path] += 1
    return correct


def _compare_pair(first: str, second: str, one: Correctness, other: Correctness, seed: int) -> Comparison | None:
    shared = [question for question in one if question in other]
    if not shared:
        return None
    a = np.array([one[question] for question in shared])
    b = np.array([other[question] for question in shared])
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    counts = np.array([only_first, only_second, len(shared) - discordant])
    drawn = resample_counts(counts, np.random.default_rng(seed))
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Comparison(
        first=first,
        second=second,
        questions=len(shared),
        difference=with_interval(
            (only_first - only_second) / len(shared), (drawn[:, 0] - drawn[:, 1]) / len(shared), -1, 1
        ),
        only_first=only_first,
        only_second=only_second,
        p=p,
        adjusted_p=p,
    )


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple tests (Holm, 1979): the k-th smallest of n times n - k + 1, made monotonic."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = largest
    return adjusted
