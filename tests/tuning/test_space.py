"""Points and ranges of a space."""

import pytest
from ray import tune

from fer.errors import UserError
from fer.tuning.space import Space, check_point, describe, fits

SPACE = Space(
    purpose="a test",
    trains="classifier",
    optimises="nothing",
    vary={"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.choice(["ce", "focal"]), "layers": tune.randint(1, 5)},
    default={"lr": 1e-3, "loss": "ce", "layers": 2},
)


def test_ranges_in_words() -> None:
    said = [describe(domain) for domain in SPACE.vary.values()]
    assert said == ["0.0001 to 0.01, log", "one of ce, focal", "1 to 4, whole"]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"rate": 1}, "no dimension 'rate'; it has: lr, loss, layers"),
        ({"lr": 0.5}, "lr can't be 0.5; it is 0.0001 to 0.01, log"),
        ({"lr": "fast"}, "lr can't be 'fast'"),
        ({"loss": "mse"}, "loss can't be 'mse'; it is one of ce, focal"),
    ],
)
def test_a_wrong_point_is_told(point: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_point(SPACE, point, "--points")


def test_only_whole_points_of_another_campaign_fit() -> None:
    assert fits(SPACE, SPACE.default)
    assert fits(SPACE, {"lr": 1e-2, "loss": "focal", "layers": 4})
    assert not fits(SPACE, {"lr": 1e-3})
    assert not fits(SPACE, SPACE.default | {"lr": 1.0})
