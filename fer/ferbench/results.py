"""Results files: what a model answered, in the form of UniFER's scripts, ``[{...question, model_response, error}]``.

Ferry's files add fields that those scripts do not mind: token counts, and the answers of all turns of a conversation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer.data.vqa.questions import parse_question, read_objects
from fer.errors import BadRow, UserError
from fer.ferbench.datasets import dataset_of

RUN = "run.json"
_ERROR = "ERROR: "


@dataclass(frozen=True, slots=True)
class Result:
    """One answered question; or one that could not be asked, with the ``error``."""

    path: str
    label: str
    candidates: tuple[str, ...]
    responses: tuple[str, ...]
    """One a turn; questions of one turn have one. Empty after an error."""
    error: str | None
    tokens: int | None
    """Of all answers together, where they were counted."""


@dataclass(frozen=True)
class ResultsFile:
    """The answers of one model to one file of questions."""

    location: str
    dataset: str | None
    """One of FERBench's or "rafdb-compound"; None for other labels."""
    results: list[Result]

    @property
    def name(self) -> str:
        """The data set; the file's own name, for labels that are none of the known data sets'."""
        return self.dataset or Path(self.location).stem


def read_results(location: str) -> ResultsFile:
    """A results file, Ferry's or UniFER's. Raises UserError that names the first row that is none."""
    results = []
    for number, raw in enumerate(read_objects(location), 1):
        try:
            results.append(_parse(raw))
        except BadRow as error:
            raise UserError(f"{location}, row {number}: {error}") from None
    if not results:
        raise UserError(f"{location} holds no results")
    offered = {label for result in results for label in result.candidates}
    return ResultsFile(location, dataset_of(offered, (result.label for result in results)), results)


def _parse(raw: Any) -> Result:
    if isinstance(raw, BadRow):
        raise raw
    question = parse_question(raw)
    if question.answer is None or not question.candidate_labels:
        raise BadRow("no true_label or no candidate_labels")
    response, error = raw.get("model_response"), raw.get("error")
    if not isinstance(response, str):
        raise BadRow("no model_response: not a results file; `fer ferbench run` makes one from questions")
    responses = raw.get("model_responses", [response])
    if not isinstance(responses, list) or not all(isinstance(each, str) for each in responses):
        raise BadRow("model_responses is not a list of texts")
    return Result(
        question.path,
        question.answer,
        question.candidate_labels,
        () if error else tuple(responses),
        response.removeprefix(_ERROR) if error else None,
        raw.get("completion_tokens"),
    )


def answered(
    raw: Mapping[str, Any], responses: list[str], prompt_tokens: int, completion_tokens: int
) -> dict[str, Any]:
    """The row of a question that was answered; of several turns, the last answer is the ``model_response``."""
    row = {**raw, "model_response": responses[-1]}
    if len(responses) > 1:
        row["model_responses"] = responses
    if completion_tokens:
        row |= {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return row


def failed(raw: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The row of a question that could not be answered, as UniFER's scripts write it."""
    return {**raw, "model_response": _ERROR + reason, "error": True}


def write_results(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows as a JSON array; the file appears when it is whole."""
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(scratch, path)
