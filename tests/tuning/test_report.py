"""The report of a sweep."""

import math
from collections.abc import Callable

from fer.tuning.report import param_importances
from fer.tuning.search import make_study, sample_points
from fer.tuning.space import SearchSpace
from fer.tuning.trial_record import TrialRecord

MakeRecord = Callable[..., TrialRecord]


def test_importance_finds_the_hyperparameter_that_matters(space: SearchSpace, record: MakeRecord) -> None:
    points = sample_points(space.params, [], 40, seed=0)
    records = [record(i, [math.log10(point["lr"])], **point) for i, point in enumerate(points)]
    importances = param_importances(make_study(space.params, records))
    assert importances is not None
    assert importances["lr"] > 0.9
    assert param_importances(make_study(space.params, [record(0, [0.5])])) is None
