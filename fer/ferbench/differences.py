"""Why the two protocols disagree: every response that they read differently, counted by reason, with examples."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from fer.answers import UNKNOWN, answer_part, names_of
from fer.ferbench.datasets import common_name
from fer.ferbench.metrics import HEADLINES, Scores
from fer.ferbench.results import Result

WORTH_EXPLAINING = 0.005
"""Half a percentage point."""

EXAMPLES = 3
EXCERPT = 240

ERROR = "not asked: left out by unifer, wrong in strict"
SEVERAL = "the answer names several labels: unifer takes the first candidate label, strict none"
FORM = "another form of a label's word: a label for strict, none for unifer"
PART_OF_WORD = "letters inside another word: unifer takes them for a label"
REASONING = "a label outside the answer: unifer takes it"
SYNONYM = "a synonym: unifer's table has it, strict wants a label's own word"


class Example(BaseModel):
    path: str
    true: str
    unifer: str | None
    strict: str | None
    response: str
    """Its end, where the answer stands."""


class Difference(BaseModel):
    """Responses that are read differently for one reason."""

    reason: str
    rows: int
    right_in_unifer: int
    right_in_strict: int
    examples: list[Example]


def worth_explaining(unifer: Scores | None, strict: Scores) -> bool:
    """Whether a headline figure differs by more than half a point."""
    return unifer is None or any(
        abs(getattr(unifer, name).value - getattr(strict, name).value) > WORTH_EXPLAINING for name in HEADLINES
    )


def explain(
    results: Sequence[Result], true: Sequence[str], unifer: Sequence[str | None], strict: Sequence[str | None]
) -> list[Difference]:
    """The reasons, the most frequent first; ``true`` and the predictions are those of each result."""
    found: dict[str, Difference] = {}
    for result, label, one, other in zip(results, true, unifer, strict, strict=True):
        if one == other and not result.error:
            continue
        reason = _reason(result, str(one))
        difference = found.setdefault(
            reason, Difference(reason=reason, rows=0, right_in_unifer=0, right_in_strict=0, examples=[])
        )
        difference.rows += 1
        difference.right_in_unifer += one == label
        difference.right_in_strict += other == label
        if len(difference.examples) < EXAMPLES:
            said = result.error if result.error else result.responses[-1][-EXCERPT:]
            example = Example(path=result.path, true=label, unifer=one, strict=other, response=said)
            difference.examples.append(example)
    return sorted(found.values(), key=lambda difference: -difference.rows)


def _reason(result: Result, unifer: str) -> str:
    if result.error:
        return ERROR
    response = result.responses[-1]
    answer = answer_part(response).lower()
    named = names_of(answer, result.candidates)
    if len(named) > 1:
        return SEVERAL
    if unifer == UNKNOWN:
        return FORM
    candidates = [label for label in result.candidates if common_name(label) == common_name(unifer)]
    if any(label in answer for label in candidates):
        return PART_OF_WORD
    return REASONING if any(label in response.lower() for label in candidates) else SYNONYM
