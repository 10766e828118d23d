"""From results to predictions: the label that each protocol takes every response to mean."""

from __future__ import annotations

from typing import Literal

from fer.answers import UNKNOWN, parse_label
from fer.ferbench import protocol_unifer
from fer.ferbench.datasets import COMPOUND
from fer.ferbench.results import Result, ResultsFile
from fer.labels import compound_label

Protocol = Literal["unifer", "strict"]
PROTOCOLS: tuple[Protocol, ...] = ("unifer", "strict")


def predictions(file: ResultsFile, protocol: Protocol, pooled: bool = False) -> list[str | None] | None:
    """The label of each result, "unknown", or None where there was an error; in the order of the results.

    ``pooled``: by the rules of the script for the figure over all data sets. None instead of a list where the protocol
    is not defined: UniFER has rules for its four data sets only.
    """
    if protocol == "unifer":
        rules = (protocol_unifer.POOLED_RULES if pooled else protocol_unifer.RULES).get(file.dataset or "")
        if rules is None:
            return None
        return [
            None if r.error else protocol_unifer.parse_label_unifer(r.responses[-1], r.candidates, rules)
            for r in file.results
        ]
    read = read_compound if file.dataset == COMPOUND else _parse_label
    return [None if result.error else read(result) for result in file.results]


def read_compound(result: Result) -> str:
    """RAF-DB's compound label of the two turns' answers, in either order; "unknown" where they make none."""
    if len(result.responses) != 2:
        return UNKNOWN
    first, second = (parse_label(response, result.candidates) for response in result.responses)
    return compound_label(first, second) or UNKNOWN


def _parse_label(result: Result) -> str:
    return parse_label(result.responses[-1], result.candidates)
