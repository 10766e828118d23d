"""Rules of `fer promote --if`: `agreement >= 0.95 and accuracy >= champion - 0.01 and latency <= 1.2 * champion`.

A rule is parsed, never evaluated as code. A comparison holds only with 95% confidence: for the whole interval of its
measure, and with enough answers behind it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fer.errors import UserError
from fer.evaluation.bootstrap import Estimate
from serve_apps.monitoring.comparison import Comparison

NUMBER = r"\d+(?:\.\d+)?"
CLAUSE = re.compile(
    rf"(?P<measure>agreement|accuracy|latency)\s*(?P<operator>>=|<=|>|<)\s*"
    rf"(?:(?P<number>{NUMBER})|champion(?:\s*(?P<sign>[+-])\s*(?P<margin>{NUMBER}))?"
    rf"|(?P<factor>{NUMBER})\s*\*\s*champion)"
)
GRAMMAR = (
    "a rule is comparisons joined by `and`: agreement >= 0.95, accuracy >= 0.8, accuracy >= champion - 0.01, "
    "latency <= 30 (milliseconds), latency <= 1.2 * champion"
)
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
Measure = Literal["agreement", "accuracy", "accuracy_difference", "latency", "latency_ratio"]


@dataclass(frozen=True)
class Clause:
    """One comparison of a rule: ``text`` as written, of a measure with a bound."""

    text: str
    measure: Measure
    operator: str
    bound: float


@dataclass(frozen=True)
class Verdict:
    """Whether a clause holds, and the figures that say so."""

    clause: Clause
    holds: bool
    figures: str


def parse_rule(text: str) -> list[Clause]:
    """The comparisons of a rule. Raises UserError with the grammar for anything else."""
    return [_parse_clause(part.strip()) for part in re.split(r"\band\b", text)]


def check_rule(rule: list[Clause], comparison: Comparison, min_answers: int) -> list[Verdict]:
    """The verdict on each comparison of the rule; there is a challenger."""
    return [_check(clause, comparison, min_answers) for clause in rule]


def _parse_clause(text: str) -> Clause:
    found = CLAUSE.fullmatch(text)
    if found is None:
        raise UserError(f"--if: {text!r} is no comparison; {GRAMMAR}")
    measure, relation = found["measure"], found["operator"]
    if found["number"]:
        return Clause(text, measure, relation, float(found["number"]))  # type: ignore[arg-type]
    if measure == "accuracy" and not found["factor"]:
        margin = float(found["margin"] or 0)
        return Clause(text, "accuracy_difference", relation, -margin if found["sign"] == "-" else margin)
    if measure == "latency" and not found["sign"]:
        return Clause(text, "latency_ratio", relation, float(found["factor"] or 1))
    raise UserError(f"--if: {text!r} has no interval; {GRAMMAR}")


def _check(clause: Clause, comparison: Comparison, min_answers: int) -> Verdict:
    estimate, answers, unit = _figures(clause.measure, comparison)
    if estimate is None or answers < min_answers:
        return Verdict(clause, False, f"{answers:,} {unit} so far, at least {min_answers:,} are needed")
    pessimistic = estimate.low if clause.operator.startswith(">") else estimate.high
    holds = OPERATORS[clause.operator](pessimistic, clause.bound)
    value, low, high = (f"{number:.4g}" for number in (estimate.value, estimate.low, estimate.high))
    name = clause.measure.replace("_", " ")
    return Verdict(clause, holds, f"{name} {value}, 95% interval {low} to {high}, from {answers:,} {unit}")


def _figures(measure: Measure, comparison: Comparison) -> tuple[Estimate | None, int, str]:
    """The estimate, the number of answers behind it, and what these are."""
    champion, challenger = comparison.champion, comparison.challenger
    assert challenger is not None
    match measure:
        case "agreement":
            return comparison.agreement, comparison.compared, "faces that both predicted (fer serve --shadow)"
        case "accuracy":
            return challenger.accuracy, challenger.labelled, "faces with feedback"
        case "accuracy_difference":
            return comparison.accuracy_difference, comparison.labelled, "faces with feedback, for both versions"
        case "latency":
            return challenger.latency, challenger.batches, "batches"
        case "latency_ratio":
            return comparison.latency_ratio, min(champion.batches, challenger.batches), "batches, for both versions"
