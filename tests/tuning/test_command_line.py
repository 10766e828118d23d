"""The command line of a config is parsed back to the same config by the job's own parser."""

from __future__ import annotations

import shlex
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import yaml

import tune_spaces
from fer.options import Options, parse
from fer.tuning.command_line import command_line
from fer.tuning.options import TuneConfig
from fer.tuning.search import sample_points
from fer.tuning.sweep import plan_sweep
from fer.tuning.trainables.registry import get_trainable
from jobs.tune import RECIPES, find_space

SPACES = sorted(module.name for module in iter_modules(tune_spaces.__path__))
RECIPE_FILES = [file for job in ("train", "dynamics") for file in sorted((RECIPES / job).glob("*.yaml"))]
TRAINABLES = {"train": get_trainable("classifier"), "dynamics": get_trainable("dynamics")}


def check_round_trip(job: str, config: Any) -> None:
    words = shlex.split(command_line(job, config, "again"))
    assert words[:2] == ["fer", job]
    parsed: Options = parse(type(config), words[2:], job)
    assert parsed == config.model_copy(update={"name": "again"})


@pytest.mark.parametrize("name", SPACES)
def test_any_point_of_any_space(name: str) -> None:
    space = find_space(name)
    sweep = plan_sweep(TuneConfig(space=name, data="my faces/it's"), space, {"seed": 3, "val_split": 0.25}, [])
    for point in [space.default, *sample_points(space.params, [], 25, seed=0)]:
        # storage is an option of the run, so the command leaves it at its default, as it is here.
        check_round_trip(sweep.trainable.job, sweep.job_config(point))


@pytest.mark.parametrize("recipe", RECIPE_FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_recipe(recipe: Path) -> None:
    job = recipe.parent.name
    options = yaml.safe_load(recipe.read_text())
    options = {name: value for name, value in options.items() if name != "threads"}  # an option of the run
    check_round_trip(job, TRAINABLES[job].config_class.model_validate({**options, "data": "d"}))


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("train", {"amp": False, "epochs": 4, "lr": 0.0012345678901234, "scheduler": "onecycle"}),
        ("train", {"head": "both", "soft_labels": True, "clip_grad": 1e-09, "format": "fer2013"}),
        ("train", {"model_kwargs": {"checkpoint_path": 'odd "name".safetensors', "stem": True, "layers": [1, 2]}}),
        ("dynamics", {"stages": ["1", "2a"], "stage_1": {"train": ["flow"], "lr": 1e-05, "patience": 0}}),
        ("dynamics", {"stage_4": {"train": ["mlp", "fusion"], "scheduler": "onecycle"}, "pretrained": False}),
        ("dynamics", {"folds": 3, "loss": "ordinal", "blendshapes": "a b.safetensors"}),
    ],
)
def test_options_of_every_type(job: str, options: dict[str, Any]) -> None:
    check_round_trip(job, TRAINABLES[job].config_class.model_validate({**options, "data": "d"}))
