"""From results to predictions: the label that each protocol takes every response to mean."""

from __future__ import annotations

from typing import Literal

from fer.evaluation.ferbench import strict, unifer
from fer.evaluation.ferbench.datasets import COMPOUND
from fer.evaluation.ferbench.results import Result, ResultsFile
from fer.evaluation.ferbench.unifer import UNKNOWN
from fer.labels import compound_label

Protocol = Literal["unifer", "strict"]
PROTOCOLS: tuple[Protocol, ...] = ("unifer", "strict")


def predictions(file: ResultsFile, protocol: Protocol, pooled: bool = False) -> list[str | None] | None:
    """The label of each result, "unknown", or None where there was an error; in the order of the results.

    ``pooled``: by the rules of the script for the figure over all data sets. None instead of a list where the protocol
    is not defined: UniFER has rules for its four data sets only.
    """
    if protocol == "unifer":
        rules = (unifer.POOLED_RULES if pooled else unifer.RULES).get(file.dataset or "")
        if rules is None:
            return None
        return [None if r.error else unifer.read_label(r.responses[-1], r.candidates, rules) for r in file.results]
    read = read_compound if file.dataset == COMPOUND else _read_strict
    return [None if result.error else read(result) for result in file.results]


def read_compound(result: Result) -> str:
    """RAF-DB's compound label of the two turns' answers, in either order; "unknown" where they make none."""
    if len(result.responses) != 2:
        return UNKNOWN
    first, second = (strict.read_label(response, result.candidates) for response in result.responses)
    return compound_label(first, second) or UNKNOWN


def _read_strict(result: Result) -> str:
    return strict.read_label(result.responses[-1], result.candidates)
