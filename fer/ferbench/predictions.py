"""From results to predictions: the label that each protocol parses from a response."""

from __future__ import annotations

from typing import Literal

from fer.answers import UNKNOWN, parse_label
from fer.ferbench.datasets import COMPOUND
from fer.ferbench.protocol_unifer import POOLED_RULES, RULES, parse_label_unifer
from fer.ferbench.results import Result, ResultsFile
from fer.labels import compound_label

Protocol = Literal["unifer", "strict"]
PROTOCOLS: tuple[Protocol, ...] = ("unifer", "strict")


def predicted_labels(file: ResultsFile, protocol: Protocol, pooled: bool = False) -> list[str | None] | None:
    """The label of each result, "unknown", or None for an error; in the order of the results.

    With ``pooled``, UniFER's protocol uses the rules of its script for all data sets together. Returns None where the
    protocol is undefined: UniFER has rules for its four data sets only.
    """
    if protocol == "strict":
        parse = parse_compound_label if file.dataset == COMPOUND else _parse_last_response
        return [None if result.error is not None else parse(result) for result in file.results]
    rules = (POOLED_RULES if pooled else RULES).get(file.dataset or "")
    if rules is None:
        return None
    return [
        None if result.error is not None else parse_label_unifer(result.responses[-1], result.candidates, rules)
        for result in file.results
    ]


def parse_compound_label(result: Result) -> str:
    """RAF-DB's compound label of the responses to two turns, in either order; "unknown" if they don't form one."""
    if len(result.responses) != 2:
        return UNKNOWN
    first, second = (parse_label(response, result.candidates) for response in result.responses)
    return compound_label(first, second) or UNKNOWN


def _parse_last_response(result: Result) -> str:
    return parse_label(result.responses[-1], result.candidates)
