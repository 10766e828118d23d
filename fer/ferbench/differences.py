"""Why the two protocols disagree: all responses that they parse differently, counted by reason, with examples."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from fer.answers import UNKNOWN, answer_part, named_labels
from fer.ferbench.datasets import common_label
from fer.ferbench.metrics import HEADLINES, ProtocolMetrics
from fer.ferbench.results import Result

THRESHOLD = 0.005
"""Half a percentage point."""

MAX_EXAMPLES = 3
EXCERPT_LENGTH = 240

ERROR = "error: excluded by unifer, wrong in strict"
SEVERAL = "the answer names several labels: unifer takes the first candidate label, strict none"
FORM = "another form of a label's word: a label for strict, none for unifer"
PART_OF_WORD = "part of another word: a label for unifer"
REASONING = "a label outside the answer: a label for unifer"
SYNONYM = "a synonym: in unifer's table, while strict requires a label's own word"


class Example(BaseModel):
    path: str
    true: str
    unifer: str | None
    strict: str | None
    response: str
    """The last EXCERPT_LENGTH characters, which include the answer; or the error."""


class Difference(BaseModel):
    """Responses that the protocols parse differently for one reason."""

    reason: str
    rows: int
    right_in_unifer: int
    right_in_strict: int
    examples: list[Example]


def is_notable(unifer: ProtocolMetrics | None, strict: ProtocolMetrics) -> bool:
    """Whether a headline metric differs by more than half a percentage point."""
    return unifer is None or any(
        abs(getattr(unifer, name).value - getattr(strict, name).value) > THRESHOLD for name in HEADLINES
    )


def explain_differences(
    results: Sequence[Result], true: Sequence[str], unifer: Sequence[str | None], strict: Sequence[str | None]
) -> list[Difference]:
    """The reasons, most frequent first; ``true`` and both protocols' predictions are parallel to ``results``."""
    found: dict[str, Difference] = {}
    for result, label, unifer_label, strict_label in zip(results, true, unifer, strict, strict=True):
        if unifer_label == strict_label and result.error is None:
            continue
        reason = _reason(result, str(unifer_label))
        difference = found.setdefault(
            reason, Difference(reason=reason, rows=0, right_in_unifer=0, right_in_strict=0, examples=[])
        )
        difference.rows += 1
        difference.right_in_unifer += unifer_label == label
        difference.right_in_strict += strict_label == label
        if len(difference.examples) < MAX_EXAMPLES:
            text = result.responses[-1][-EXCERPT_LENGTH:] if result.error is None else result.error
            difference.examples.append(
                Example(path=result.path, true=label, unifer=unifer_label, strict=strict_label, response=text)
            )
    return sorted(found.values(), key=lambda difference: -difference.rows)


def _reason(result: Result, unifer: str) -> str:
    if result.error is not None:
        return ERROR
    response = result.responses[-1]
    answer = answer_part(response).lower()
    named = named_labels(answer, result.candidates)
    if len(named) > 1:
        return SEVERAL
    if unifer == UNKNOWN:
        return FORM
    candidates = [label for label in result.candidates if common_label(label) == common_label(unifer)]
    if any(label in answer for label in candidates):
        return PART_OF_WORD
    return REASONING if any(label in response.lower() for label in candidates) else SYNONYM
