"""Search spaces: the hyperparameters, how a point becomes options of a job, and the budget. Plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform

from fer.errors import UserError

Point = dict[str, Any]
"""One value for each hyperparameter of a space."""


@dataclass(frozen=True)
class SearchSpace:
    """A file of `tune_spaces/` defines one of these as ``SPACE``."""

    description: str
    """One line on what is tuned."""
    trainable: Literal["classifier", "dynamics"]
    """What a trial trains: a name in `fer.tuning.trainables.registry`."""
    metric: str
    """What the score is, in words. Higher is better."""
    params: Mapping[str, Domain]
    """Hyperparameters by name, as Ray Tune's distributions: `tune.loguniform(1e-4, 1e-2)`, `tune.choice([...])`."""
    default: Point
    """The point equal to the job's default options. It is evaluated first, as the baseline."""
    to_options: Callable[[Point], dict[str, Any]] = dict
    """Maps a point to options of the job."""
    search: Literal["tpe", "random", "grid", "pbt"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    num_trials: int = 24
    grace_period: int = 1
    """Epochs (for `fer dynamics`: stages) before ASHA may stop a trial."""
    reduction_factor: int = 3
    """ASHA keeps one in so many trials at each rung: after grace_period, grace_period x reduction_factor, ..."""
    mutable: tuple[str, ...] = ()
    """Hyperparameters that population based training may change while a trial runs."""

    def __post_init__(self) -> None:
        assert self.default.keys() == self.params.keys(), "the default point must have a value for each hyperparameter"
        assert set(self.mutable) <= set(self.params), "mutable hyperparameters must be in the space"


def contains(space: SearchSpace, point: Mapping[str, Any]) -> bool:
    """Whether a point, such as one of an earlier sweep, is complete and within this space's ranges."""
    try:
        check_point(space, point, "")
    except UserError:
        return False
    return point.keys() == space.params.keys()


def check_point(space: SearchSpace, point: Mapping[str, Any], source: str) -> None:
    """Raise UserError for an unknown hyperparameter or a value out of range. ``source`` opens the message."""
    for name, value in point.items():
        if name not in space.params:
            raise UserError(f"{source}: the space has no hyperparameter {name!r}; it has: {', '.join(space.params)}")
        domain = space.params[name]
        # Comparing a string with a numeric range, or a number with strings, raises TypeError.
        try:
            valid = domain.is_valid(value) or (isinstance(domain, Float | Integer) and value == domain.upper)
        except TypeError:
            valid = False
        if not valid:
            raise UserError(f"{source}: {name} can't be {value!r}; allowed: {format_domain(domain)}")


def format_domain(domain: Domain) -> str:
    """A hyperparameter's range as text: "0.0001 to 0.01, log", "one of ce, focal"."""
    if isinstance(domain, Categorical):
        return "one of " + ", ".join(str(value) for value in domain.categories)
    assert isinstance(domain, Float | Integer), f"unsupported distribution: {type(domain).__name__}"
    upper = domain.upper - 1 if isinstance(domain, Integer) else domain.upper
    log = ", log" if isinstance(domain.get_sampler(), LogUniform) else ""
    integer = ", integer" if isinstance(domain, Integer) else ""
    return f"{domain.lower:g} to {upper:g}{integer}{log}"
