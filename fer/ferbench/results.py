"""Results files: a model's responses in the form of UniFER's scripts, ``[{...question, model_response, error}]``.

Ferry adds fields that those scripts ignore: token counts, and the responses to all turns of a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.data.vqa.questions import parse_question, read_objects
from fer.errors import BadRow, UserError
from fer.ferbench.datasets import check_true_labels, identify_dataset
from fer.storage import write_atomically

if TYPE_CHECKING:
    from upath import UPath

RECORD = "run.json"
_ERROR_PREFIX = "ERROR: "


@dataclass(frozen=True, slots=True)
class Result:
    """A question with a model's responses, or with the error for which it has none."""

    path: str
    label: str
    candidates: tuple[str, ...]
    responses: tuple[str, ...]
    """One per turn; empty after an error."""
    error: str | None
    """None if there was no error. The message of an error may be empty."""
    completion_tokens: int | None
    """Of all turns together; None if they were not counted."""


@dataclass(frozen=True)
class ResultsFile:
    """One model's results on one file of questions."""

    location: str
    dataset: str | None
    """A data set of FERBench or "rafdb-compound"; None for other labels."""
    results: list[Result]

    @property
    def name(self) -> str:
        """The data set; for other labels the file's own name."""
        return self.dataset or Path(self.location).stem


def read_results(location: str) -> ResultsFile:
    """Read a results file of Ferry or of UniFER's scripts. Raises UserError that names the first invalid row."""
    results = []
    for number, raw in enumerate(read_objects(location), 1):
        try:
            results.append(_parse_result(raw))
        except BadRow as error:
            raise UserError(f"{location}, row {number}: {error}") from None
    if not results:
        raise UserError(f"{location} has no results")
    candidates = {label for result in results for label in result.candidates}
    labels = [result.label for result in results]
    dataset = identify_dataset(candidates, labels)
    check_true_labels(location, dataset, labels)
    return ResultsFile(location, dataset, results)


def _parse_result(raw: Any) -> Result:
    if isinstance(raw, BadRow):
        raise raw
    question = parse_question(raw)
    if question.answer is None or not question.candidate_labels:
        raise BadRow("no true_label or no candidate_labels")
    response, failed = raw.get("model_response"), bool(raw.get("error"))
    if not isinstance(response, str):
        raise BadRow("no model_response: not a results file; `fer ferbench run` makes one from questions")
    responses = raw.get("model_responses", [response])
    if not isinstance(responses, list) or not all(isinstance(each, str) for each in responses):
        raise BadRow("model_responses is not a list of strings")
    return Result(
        question.path,
        question.answer,
        question.candidate_labels,
        () if failed else tuple(responses),
        response.removeprefix(_ERROR_PREFIX) if failed else None,
        raw.get("completion_tokens"),
    )


def response_row(
    raw: Mapping[str, Any], responses: list[str], prompt_tokens: int, completion_tokens: int
) -> dict[str, Any]:
    """A question's row with its responses; ``model_response`` is that of the last turn."""
    row = {**raw, "model_response": responses[-1]}
    if len(responses) > 1:
        row["model_responses"] = responses
    if completion_tokens:
        row |= {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return row


def error_row(raw: Mapping[str, Any], error: str) -> dict[str, Any]:
    """A question's row with an error, in the form of UniFER's scripts."""
    return {**raw, "model_response": _ERROR_PREFIX + error, "error": True}


def write_results(rows: Iterable[Mapping[str, Any]], path: Path | UPath) -> None:
    """Write rows as a JSON array, atomically."""
    write_atomically(path, json.dumps(list(rows), indent=1, ensure_ascii=False))
