"""The recorded learning curves: one line of JSON for each configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

TABLE = Path(__file__).parent / "fer2013-sample.jsonl"


class Recorded(BaseModel):
    """What was measured of one configuration."""

    point: dict[str, Any]
    """Its values of the space's hyperparameters."""
    scores: list[float]
    """Validation accuracy after each epoch."""
    cpu_seconds: list[float]
    """CPU seconds of each epoch on one core, with its validation and checkpoint."""
    latency: float
    """CPU milliseconds of a forward pass of one image on one core."""


def read_table(path: Path) -> list[Recorded]:
    """The configurations, in the order in which they were drawn; the first is the default."""
    return [Recorded.model_validate_json(line) for line in path.read_text().splitlines()]


class Table:
    """The recorded configurations of a space, of which the nearest to a point is looked up.

    A difference counts by the hyperparameter's share of the variance of the score (functional ANOVA over the table), so
    that the nearest configuration is the one that trains most alike, and not one that agrees in what hardly matters.
    """

    def __init__(self, rows: Sequence[Recorded], params: Mapping[str, Domain]) -> None:
        from fer.tuning.search import distributions

        self.rows, self.distributions = rows, distributions(params)
        self.weights = np.array(list(self._importances().values()))
        self.positions = np.stack([self._position(row.point) for row in rows])
        networks = [(row.point["backbone"], row.point["img_size"]) for row in rows]
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
                optuna.trial.create_trial(params=row.point, distributions=self.distributions, value=max(row.scores))
                for row in self.rows
            ]
        )
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
        return {name: found[name] for name in self.distributions}
