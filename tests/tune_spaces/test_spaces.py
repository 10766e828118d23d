"""Every file of `tune_spaces` defines a search space whose points its job accepts."""

from pkgutil import iter_modules

import pytest

import tune_spaces
from fer.tuning.search import sample_points
from fer.tuning.space import SearchSpace, check_point
from fer.tuning.trainables.registry import get_trainable
from jobs.tune import Config, find_space, main

SPACES = sorted(module.name for module in iter_modules(tune_spaces.__path__))


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return find_space(request.param)


def test_the_job_accepts_every_point(space: SearchSpace) -> None:
    config_class = get_trainable(space.trainable).config_class
    for point in [space.default, *sample_points(space.params, [], 60, seed=0)]:
        check_point(space, point, "")
        config_class.model_validate({**space.to_options(point), "data": "x"})


@pytest.mark.parametrize("name", ["classifier", "fusion"])
def test_the_default_point_is_the_default_of_the_job(name: str) -> None:
    space = find_space(name)
    config_class = get_trainable(space.trainable).config_class
    default = config_class(data="x").model_dump(exclude={"model_kwargs"})
    assert config_class(data="x", **space.to_options(space.default)).model_dump(exclude={"model_kwargs"}) == default


def test_a_space_is_shown_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(Config(space="fusion", show=True))
    shown = capsys.readouterr().out
    for words in ("fusion", "lr_landmarks", "0.0001 to 0.01, log", "one of mse, ordinal", "scheduler asha"):
        assert words in shown
