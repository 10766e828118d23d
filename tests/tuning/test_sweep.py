"""Planning a sweep: what is refused before anything starts, and the meaning of its options."""

from pathlib import Path
from typing import Any

import pytest

from fer.errors import UserError
from fer.tuning.options import TuneConfig
from fer.tuning.sweep import Sweep, nest_options, plan_sweep
from fer.tuning.trial import merge_options
from jobs.tune import find_space, read_base, read_points, read_warm_start


def plan(base: dict[str, Any] | None = None, points: list | None = None, **options: Any) -> Sweep:
    config = TuneConfig(**{"space": "classifier_cpu", "data": "faces", **options})
    return plan_sweep(config, find_space(config.space), base or {}, points or [])


def test_a_point_overrides_base_and_set_overrides_both() -> None:
    sweep = plan({"lr": 0.5, "epochs": 7, "warmup_epochs": 2}, set={"lr": "0.005", "epochs": "3", "img_size": "40"})
    assert {"lr", "img_size"}.isdisjoint(sweep.space.params)
    job = sweep.job_config(sweep.space.default)
    assert (job.lr, job.epochs, job.warmup_epochs, job.img_size) == (0.005, 3, 2, 40)


def test_groups_of_options_are_merged_recursively() -> None:
    assert nest_options({"stage_1.lr": 0.1, "stage_1.epochs": 2, "loss": "mse"}) == {
        "stage_1": {"lr": 0.1, "epochs": 2},
        "loss": "mse",
    }
    merged = merge_options({"stage_1": {"lr": 1, "epochs": 2}}, {"stage_1": {"lr": 3}})
    assert merged == {"stage_1": {"lr": 3, "epochs": 2}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": {"img_size": 50}}, "--set: img_size can't be 50; allowed: one of 40, 48, 64"),
        ({"set": {"colour": 1}}, "unknown option --colour"),
        ({"search": "grid"}, "the grid has"),
        ({"search": "pbt", "set": {"workers": 2}}, "one-worker trials: use --set workers=1"),
        ({"search": "pbt", "space": "fusion"}, "space fusion has none"),
        ({"points": [{"lr": 7}]}, "--points, point 1: lr can't be 7"),
    ],
)
def test_an_impossible_sweep_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    options = dict(options)
    points = options.pop("points", [])
    with pytest.raises(UserError, match=message) as refused:
        plan(points=points, num_trials=24, **options)
    assert "\n" not in str(refused.value)


def test_a_wrong_file_or_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--space clasifier: must be one of classifier, classifier_cpu, fusion"):
        find_space("clasifier")
    with pytest.raises(UserError, match="--base: no file 'nothing'"):
        read_base("nothing", "train")
    assert read_base("fer2013-cpu", "train")["img_size"] == 80
    (tmp_path / "points.yaml").write_text("lr: 1")
    with pytest.raises(UserError, match="not a list of points"):
        read_points(str(tmp_path / "points.yaml"))
    config = TuneConfig(space="classifier_cpu", data="faces", warm_start="old", storage=str(tmp_path))
    with pytest.raises(UserError, match="no sweep 'old'"):
        read_warm_start(config, find_space("classifier_cpu"))


def test_the_size_of_a_grid_counts_given_points_outside_it_and_each_point_once() -> None:
    fixed = {name: find_space("fusion").default[name] for name in ("dropout", "weight_decay", "lr_flow", "lr_mlp")}
    fixed |= {"lr_landmarks": 1e-3, "lr_fusion": 0.01, "flow_width": 8, "landmark_width": 16, "batch_size": 16}
    points = [{"lr_all": 1e-6, "loss": "mse"}, {"lr_all": 2e-6, "loss": "mse"}, {"lr_all": 2e-6, "loss": "mse"}]
    sweep = plan(space="fusion", search="grid", set=fixed, points=points)
    assert sweep.space.params.keys() == {"loss", "lr_all"}
    assert sweep.grid_size == sweep.num_trials == len(sweep.points_to_evaluate) == 2 * 3 + 2  # the default is outside
