"""Judging one model: every data set and all four together, in both protocols, with what sets the two apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fer.answers import extract_answer, well_formed
from fer.ferbench.collect import ModelResults, only_clear
from fer.ferbench.datasets import COMPOUND, FOUR, POOLED_LABELS, TITLES, common_name, labels_of
from fer.ferbench.differences import Difference, explain, worth_explaining
from fer.ferbench.metrics import Scores, score
from fer.ferbench.predictions import predictions
from fer.ferbench.results import Result, ResultsFile

POOLED = "pooled"
CLEAR = "ferplus-clear"


class Form(BaseModel):
    """What the answers look like, apart from whether they are right."""

    well_formed: float
    """Share of the form <think>...</think><answer>...</answer>."""
    tagged: float
    """Share with an answer tag."""
    words: float
    """Median length of a response."""
    tokens: float | None
    """Mean length, where tokens were counted."""


class PartScores(BaseModel):
    """One data set, a part of one, or several together."""

    name: str
    title: str
    questions: int
    unifer: Scores | None
    """None where UniFER has no rules for these labels, or no row without an error."""
    strict: Scores
    form: Form | None
    """None where nothing was answered."""
    differences: list[Difference]
    """Why the protocols differ, where a headline figure does by more than half a point."""


class ModelScores(BaseModel):
    """Everything that was measured of one model."""

    model: str
    parts: list[PartScores]
    usage: dict[str, Any] | None
    """Answers, engine seconds, tokens and cost; None for results from elsewhere."""

    def part(self, name: str) -> PartScores | None:
        return next((part for part in self.parts if part.name == name), None)

    @property
    def whole(self) -> PartScores:
        """All data sets together; the first, where there is one."""
        return self.part(POOLED) or self.parts[0]


@dataclass
class _Rows:
    """Questions with what each protocol takes the answers to be."""

    results: Sequence[Result]
    true: list[str]
    unifer: list[str | None] | None
    strict: list[str | None]


def judge(model: ModelResults, clear: set[str] | None, seed: int) -> ModelScores:
    """Score a model; ``clear`` are the FER+ images with a clear majority, ``seed`` is the bootstrap's."""
    parts = []
    for file in model.files:
        labels = _labels(file)
        parts.append(_part(file.name, TITLES.get(file.name, file.name), labels, _rows(file), seed))
        if file.dataset == "ferplus" and clear is not None and (fewer := only_clear(file, clear)).results:
            parts.append(_part(CLEAR, "FERPlus, clear majority", labels, _rows(fewer), seed))
    four = [file for file in model.files if file.dataset in FOUR]
    if len(four) > 1:
        title = "all four" if len(four) == len(FOUR) else f"{len(four)} of four"
        parts.append(_part(POOLED, title, POOLED_LABELS, _together(four), seed))
    return ModelScores(model=model.name, parts=parts, usage=model.record.get("usage"))


def _rows(file: ResultsFile, pooled: bool = False) -> _Rows:
    strict = predictions(file, "strict")
    assert strict is not None
    true = [result.label for result in file.results]
    return _Rows(file.results, true, predictions(file, "unifer", pooled), strict)


def _together(files: Sequence[ResultsFile]) -> _Rows:
    """Rows of several data sets under common names of the labels."""
    all_rows = [_rows(file, pooled=True) for file in files]

    def common(labels: Sequence[str | None]) -> list[str | None]:
        return [label and common_name(label) for label in labels]

    return _Rows(
        [result for rows in all_rows for result in rows.results],
        [common_name(label) for rows in all_rows for label in rows.true],
        [label for rows in all_rows for label in common(rows.unifer or [])],
        [label for rows in all_rows for label in common(rows.strict)],
    )


def _part(name: str, title: str, labels: Sequence[str], rows: _Rows, seed: int) -> PartScores:
    strict = score(labels, rows.true, rows.strict, "strict", seed)
    assert strict is not None, "every part has rows"
    unifer = score(labels, rows.true, rows.unifer, "unifer", seed) if rows.unifer is not None else None
    differences: list[Difference] = []
    if rows.unifer is not None and worth_explaining(unifer, strict):
        differences = explain(rows.results, rows.true, rows.unifer, rows.strict)
    return PartScores(
        name=name,
        title=title,
        questions=len(rows.results),
        unifer=unifer,
        strict=strict,
        form=_form(rows.results),
        differences=differences,
    )


def _form(results: Sequence[Result]) -> Form | None:
    said = [result for result in results if not result.error]
    if not said:
        return None
    last = [result.responses[-1] for result in said]
    tokens = [result.tokens for result in said if result.tokens is not None]
    return Form(
        well_formed=statistics.mean(well_formed(response) for response in last),
        tagged=statistics.mean(extract_answer(response) is not None for response in last),
        words=statistics.median(len(" ".join(result.responses).split()) for result in said),
        tokens=statistics.mean(tokens) if tokens else None,
    )


def _labels(file: ResultsFile) -> Sequence[str]:
    if file.dataset in (*FOUR, COMPOUND):
        return labels_of(file.name)
    offered = [label for result in file.results for label in (*result.candidates, result.label)]
    return list(dict.fromkeys(offered))
