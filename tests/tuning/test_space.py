"""Points and ranges of a search space."""

import pytest

from fer.errors import UserError
from fer.tuning.space import SearchSpace, check_point, contains, format_domain


def test_ranges_as_text(space: SearchSpace) -> None:
    ranges = [format_domain(domain) for domain in space.params.values()]
    assert ranges == ["0.0001 to 0.01, log", "one of ce, focal", "1 to 4, integer"]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"rate": 1}, "no hyperparameter 'rate'; it has: lr, loss, layers"),
        ({"lr": 0.5}, "lr can't be 0.5; allowed: 0.0001 to 0.01, log"),
        ({"lr": "fast"}, "lr can't be 'fast'"),
        ({"loss": "mse"}, "loss can't be 'mse'; allowed: one of ce, focal"),
    ],
)
def test_an_invalid_point_is_refused(space: SearchSpace, point: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_point(space, point, "--points")


def test_a_space_contains_only_complete_points_within_its_ranges(space: SearchSpace) -> None:
    assert contains(space, space.default)
    assert contains(space, {"lr": 1e-2, "loss": "focal", "layers": 4})
    assert not contains(space, {"lr": 1e-3})
    assert not contains(space, space.default | {"lr": 1.0})
