"""What a campaign is: the dimensions that vary, what they mean to a job, and how much is spent. Plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform

from fer.errors import UserError

Point = dict[str, Any]
"""One value for each dimension of a space."""


@dataclass(frozen=True)
class Space:
    """A file of `tune_spaces/` holds one of these, called ``SPACE``."""

    purpose: str
    """One line for the person who chooses a space."""
    trains: Literal["classifier", "dynamics"]
    """What a trial trains."""
    optimises: str
    """What the score is, in words. More is better."""
    vary: Mapping[str, Domain]
    """Dimensions by name, as Ray Tune's distributions: `tune.loguniform(1e-4, 1e-2)`, `tune.choice([...])`."""
    default: Point
    """The point that stands for the job's default settings. It is tried first: the yardstick of all others."""
    options: Callable[[Point], dict[str, Any]] = dict
    """What a point means: options of the job."""
    search: Literal["tpe", "random", "grid", "pbt"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    num_trials: int = 24
    grace: int = 1
    """Epochs (of `fer dynamics`: stages) that every trial gets before it may be stopped."""
    reduction: int = 3
    """Of so many trials that get this far one goes on; likewise after grace x reduction, and so on."""
    mutable: tuple[str, ...] = ()
    """Dimensions that population based training may change while a trial runs."""

    def __post_init__(self) -> None:
        assert self.default.keys() == self.vary.keys(), "the default point has a value for each dimension"
        assert set(self.mutable) <= set(self.vary), "what is mutable varies"


def fits(space: Space, point: Mapping[str, Any]) -> bool:
    """Whether a point of another campaign is one of this space."""
    try:
        check_point(space, point, "")
    except UserError:
        return False
    return point.keys() == space.vary.keys()


def check_point(space: Space, point: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a dimension that the space doesn't have, or a value out of its range."""
    for name, value in point.items():
        if name not in space.vary:
            raise UserError(f"{where}: the space has no dimension {name!r}; it has: {', '.join(space.vary)}")
        domain = space.vary[name]
        # A number given where choices are, or words where a number is wanted, is no value of the domain either.
        try:
            valid = domain.is_valid(value) or (isinstance(domain, Float | Integer) and value == domain.upper)
        except TypeError:
            valid = False
        if not valid:
            raise UserError(f"{where}: {name} can't be {value!r}; it is {describe(domain)}")


def describe(domain: Domain) -> str:
    """A dimension's range in words: "0.0001 to 0.01, log", "one of ce, focal"."""
    if isinstance(domain, Categorical):
        return "one of " + ", ".join(str(value) for value in domain.categories)
    assert isinstance(domain, Float | Integer), f"spaces have no dimensions of type {type(domain).__name__}"
    upper = domain.upper - 1 if isinstance(domain, Integer) else domain.upper
    log = ", log" if isinstance(domain.get_sampler(), LogUniform) else ""
    whole = ", whole" if isinstance(domain, Integer) else ""
    return f"{domain.lower:g} to {upper:g}{whole}{log}"
