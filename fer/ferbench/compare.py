"""Whether one model is better than another on the same questions: paired, with the strict protocol's verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel
from scipy.stats import binomtest

from fer.evaluation.bootstrap import Estimate, bootstrap_sums, with_interval
from fer.ferbench.collect import ModelResults
from fer.ferbench.predictions import predictions

Verdicts = Mapping[tuple[str, str], bool]
"""Whether the answer to each question, by data set and image, is right."""


class Comparison(BaseModel):
    """Two models on the questions that both were asked."""

    first: str
    second: str
    questions: int
    difference: Estimate
    """Accuracy of the first less that of the second, in [-1, 1], with a paired bootstrap interval."""
    only_first: int
    """Questions that the first answered rightly and the second did not."""
    only_second: int
    p: float
    """McNemar's exact test (McNemar, 1947) of whether either is right more often."""
    adjusted_p: float
    """After Holm (1979), for all pairs together."""


def compare(models: Sequence[ModelResults], seed: int = 0) -> list[Comparison]:
    """Every pair of models that have questions in common, in the order of the models."""
    verdicts = {model.name: _verdicts(model) for model in models}
    found = [_pair(one, other, verdicts[one], verdicts[other], seed) for one, other in combinations(verdicts, 2)]
    pairs = [comparison for comparison in found if comparison is not None]
    for comparison, adjusted in zip(pairs, holm([pair.p for pair in pairs]), strict=True):
        comparison.adjusted_p = adjusted
    return pairs


def _verdicts(model: ModelResults) -> Verdicts:
    right: dict[tuple[str, str], bool] = {}
    for file in model.files:
        predicted = predictions(file, "strict")
        assert predicted is not None
        for result, label in zip(file.results, predicted, strict=True):
            right[file.name, result.path] = label == result.label
    return right


def _pair(first: str, second: str, one: Verdicts, other: Verdicts, seed: int) -> Comparison | None:
    shared = [question for question in one if question in other]
    if not shared:
        return None
    a = np.array([one[question] for question in shared])
    b = np.array([other[question] for question in shared])
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    difference = a.astype(np.float64) - b
    resampled = bootstrap_sums(difference[:, None], None, seed)[:, 0] / len(shared)
    unlike = only_first + only_second
    p = float(binomtest(only_first, unlike).pvalue) if unlike else 1.0
    return Comparison(
        first=first,
        second=second,
        questions=len(shared),
        difference=with_interval(float(difference.mean()), resampled, -1, 1),
        only_first=only_first,
        only_second=only_second,
        p=p,
        adjusted_p=p,
    )


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm, 1979): the k-th smallest of n times n - k + 1, never falling."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = largest
    return adjusted
