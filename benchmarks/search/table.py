"""The recorded learning curves: one line of JSON for each configuration of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

if TYPE_CHECKING:
    from fer.tuning.space import SearchSpace


@dataclass(frozen=True)
class RecordedSpace:
    """A search space whose learning curves are in a file."""

    name: str
    file: Path
    network: tuple[str, ...]
    """The hyperparameters that alone determine the latency."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters that have the same value in all configurations."""
    in_stages: bool = False
    """A score belongs to a stage of the training, and is no longer that of the trial when the next stage ends."""

    @property
    def space(self) -> SearchSpace:
        """The space without what is fixed."""
        from fer.tuning.sweep import fix_params

        return fix_params(import_module(f"tune_spaces.{self.name}").SPACE, dict(self.fixed))


FOLDER = Path(__file__).parent
SPACES = {
    "classifier_cpu": RecordedSpace("classifier_cpu", FOLDER / "fer2013-sample.jsonl", ("backbone", "img_size")),
    # A wider flow net takes minutes for each configuration.
    "fusion": RecordedSpace(
        "fusion", FOLDER / "drawn-sequences.jsonl", ("landmark_width",), {"flow_width": 16}, in_stages=True
    ),
}


class Recorded(BaseModel):
    """What was measured of one configuration."""

    point: dict[str, Any]
    """Its values of the space's hyperparameters."""
    scores: list[float]
    """The score after each epoch, or the best one of each stage."""
    cpu_seconds: list[float]
    """CPU seconds of each epoch or stage on one core, with its validation and checkpoints."""
    latency: float
    """CPU milliseconds of a forward pass of one image or frame on one core."""


def read_table(path: Path) -> list[Recorded]:
    """The configurations, in the order in which they were drawn; the first is the default."""
    return [Recorded.model_validate_json(line) for line in path.read_text().splitlines()]


class Table:
    """The recorded configurations of a space, of which the nearest to a point is looked up.

    A difference counts by the hyperparameter's share of the variance of the score (functional ANOVA over the table), so
    that the nearest configuration is the one that trains most alike, and not one that agrees in what hardly matters.
    """

    def __init__(self, rows: Sequence[Recorded], recorded: RecordedSpace) -> None:
        from fer.tuning.search import distributions

        self.rows, self.space, self.distributions = rows, recorded.space, distributions(recorded.space.params)
        self.scores = [row.scores if recorded.in_stages else np.maximum.accumulate(row.scores).tolist() for row in rows]
        """Of each configuration, the trial's score after each epoch or stage."""
        self.cost = cost_of_stages(rows) if recorded.in_stages else [1] * len(rows[0].scores)
        """What each epoch or stage costs, in units of the budget."""
        self.weights = np.array(list(self._importances().values()))
        self.positions = np.stack([self._position(row.point) for row in rows])
        networks = [tuple(row.point[name] for name in recorded.network) for row in rows]
        measured = {
            name: [row.latency for row, other in zip(rows, networks, strict=True) if other == name] for name in networks
        }
        self.latency = [float(np.median(measured[name])) for name in networks]
        """Of each configuration: the median of those with its network and image size, which alone determine it."""

    def nearest(self, point: Mapping[str, Any], unused: Sequence[int]) -> int:
        """The number of the configuration of ``unused`` that is nearest to ``point``."""
        differences = np.square(self.positions[unused] - self._position(point))
        return unused[int((np.minimum(differences, 1) @ self.weights).argmin())]

    def _position(self, point: Mapping[str, Any]) -> np.ndarray:
        """Each hyperparameter as a number: of a range from 0 to 1, choices 1 and more apart."""
        from optuna.distributions import CategoricalDistribution

        position = []
        for name, distribution in self.distributions.items():
            value: Any = point[name]
            if isinstance(distribution, CategoricalDistribution):
                position.append(float(distribution.choices.index(value)))
            else:
                low, high, value = (
                    np.log(x) if distribution.log else x for x in (distribution.low, distribution.high, value)
                )
                position.append(float((value - low) / (high - low)))
        return np.array(position)

    def _importances(self) -> dict[str, float]:
        import optuna

        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(params=row.point, distributions=self.distributions, value=scores[-1])
                for row, scores in zip(self.rows, self.scores, strict=True)
            ]
        )
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
        return {name: found[name] for name in self.distributions}


UNITS = 20
"""Units of the budget that a trial in stages costs."""


def cost_of_stages(rows: Sequence[Recorded]) -> list[int]:
    """The stages' shares of the CPU time of all configurations, in twentieths, at least one each."""
    seconds = np.array([row.cpu_seconds for row in rows]).sum(0)
    return np.maximum(1, np.round(UNITS * seconds / seconds.sum())).astype(int).tolist()
