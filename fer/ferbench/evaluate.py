"""Evaluating one model: every data set and all of them pooled, in both protocols, and why these differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fer.answers import extract_answer, well_formed
from fer.ferbench.collect import ModelResults, filter_images
from fer.ferbench.datasets import COMPOUND, FERBENCH_DATASETS, POOLED_LABELS, TITLES, common_label, dataset_labels
from fer.ferbench.differences import Difference, explain_differences, is_notable
from fer.ferbench.metrics import ProtocolMetrics, protocol_metrics
from fer.ferbench.predictions import Protocol, predicted_labels
from fer.ferbench.results import Result, ResultsFile

POOLED = "pooled"
CLEAR = "ferplus-clear"


class ResponseStats(BaseModel):
    """Format and length of the responses, whether correct or not."""

    well_formed: float
    """Fraction of the form <think>...</think><answer>...</answer>."""
    tagged: float
    """Fraction with an answer tag."""
    median_words: float
    mean_tokens: float | None
    """None if tokens were not counted."""


class SubsetMetrics(BaseModel):
    """Metrics of one data set, of a part of one, or of several pooled."""

    name: str
    title: str
    questions: int
    unifer: ProtocolMetrics | None
    """None if UniFER has no rules for these labels, or every row is an error."""
    strict: ProtocolMetrics
    responses: ResponseStats | None
    """None if every row is an error."""
    differences: list[Difference]
    """Why the protocols differ, if a headline metric differs by more than half a percentage point."""

    def protocol(self, name: Protocol) -> ProtocolMetrics | None:
        return self.unifer if name == "unifer" else self.strict


class ModelMetrics(BaseModel):
    """All metrics of one model."""

    model: str
    subsets: list[SubsetMetrics]
    usage: dict[str, Any] | None
    """Responses, engine seconds, tokens and cost; None for files in UniFER's form."""

    def subset(self, name: str) -> SubsetMetrics | None:
        return next((subset for subset in self.subsets if subset.name == name), None)

    @property
    def overall(self) -> SubsetMetrics:
        """The pooled data sets, or the only one."""
        return self.subset(POOLED) or self.subsets[0]


@dataclass
class _Predictions:
    """Results with their true labels and each protocol's predictions."""

    results: Sequence[Result]
    true: list[str]
    unifer: list[str | None] | None
    strict: list[str | None]


def evaluate_model(model: ModelResults, clear_majority: set[str] | None, seed: int) -> ModelMetrics:
    """Metrics of a model; ``clear_majority`` names FER+ images with a clear majority, ``seed`` is the bootstrap's."""
    subsets = []
    for file in model.files:
        labels = _labels(file)
        subsets.append(_evaluate(file.name, TITLES.get(file.name, file.name), labels, _predict(file), seed))
        if file.dataset == "ferplus" and clear_majority is not None:
            clear = filter_images(file, clear_majority)
            if clear.results:
                subsets.append(_evaluate(CLEAR, "FERPlus, clear majority", labels, _predict(clear), seed))
    files = [file for file in model.files if file.dataset in FERBENCH_DATASETS]
    if len(files) > 1:
        title = "all four" if len(files) == len(FERBENCH_DATASETS) else f"{len(files)} of four"
        subsets.append(_evaluate(POOLED, title, POOLED_LABELS, _pool(files), seed))
    return ModelMetrics(model=model.name, subsets=subsets, usage=model.record.get("usage"))


def _predict(file: ResultsFile, pooled: bool = False) -> _Predictions:
    strict = predicted_labels(file, "strict")
    assert strict is not None
    true = [result.label for result in file.results]
    return _Predictions(file.results, true, predicted_labels(file, "unifer", pooled), strict)


def _pool(files: Sequence[ResultsFile]) -> _Predictions:
    """Predictions of several data sets with common label names."""
    predictions = [_predict(file, pooled=True) for file in files]

    def rename(labels: Sequence[str | None]) -> list[str | None]:
        return [None if label is None else common_label(label) for label in labels]

    return _Predictions(
        [result for each in predictions for result in each.results],
        [common_label(label) for each in predictions for label in each.true],
        [label for each in predictions for label in rename(each.unifer or [])],
        [label for each in predictions for label in rename(each.strict)],
    )


def _evaluate(name: str, title: str, labels: Sequence[str], data: _Predictions, seed: int) -> SubsetMetrics:
    strict = protocol_metrics(labels, data.true, data.strict, "strict", seed)
    assert strict is not None, "every subset has rows"
    unifer = None
    differences: list[Difference] = []
    if data.unifer is not None:
        unifer = protocol_metrics(labels, data.true, data.unifer, "unifer", seed)
        if is_notable(unifer, strict):
            differences = explain_differences(data.results, data.true, data.unifer, data.strict)
    return SubsetMetrics(
        name=name,
        title=title,
        questions=len(data.results),
        unifer=unifer,
        strict=strict,
        responses=_response_stats(data.results),
        differences=differences,
    )


def _response_stats(results: Sequence[Result]) -> ResponseStats | None:
    results = [result for result in results if result.error is None]
    if not results:
        return None
    responses = [result.responses[-1] for result in results]
    tokens = [result.completion_tokens for result in results if result.completion_tokens is not None]
    return ResponseStats(
        well_formed=statistics.mean(well_formed(response) for response in responses),
        tagged=statistics.mean(extract_answer(response) is not None for response in responses),
        median_words=statistics.median(len(" ".join(result.responses).split()) for result in results),
        mean_tokens=statistics.mean(tokens) if tokens else None,
    )


def _labels(file: ResultsFile) -> Sequence[str]:
    if file.dataset in (*FERBENCH_DATASETS, COMPOUND):
        return dataset_labels(file.name)
    labels = [label for result in file.results for label in (*result.candidates, result.label)]
    return list(dict.fromkeys(labels))
