"""What a campaign refuses before anything starts, and what its options mean."""

from pathlib import Path
from typing import Any

import pytest

from fer.classifier.options import TrainConfig
from fer.errors import UserError
from fer.options import parse
from fer.tuning.command import command
from fer.tuning.options import TuneConfig
from fer.tuning.sweep import Campaign, nest, plan_campaign
from fer.tuning.trial import merge
from jobs.tune import earlier, find_space, read_base, read_points


def plan(base: dict[str, Any] | None = None, points: list | None = None, **options: Any) -> Campaign:
    config = TuneConfig(**{"space": "classifier_cpu", "data": "faces", **options})
    return plan_campaign(config, find_space(config.space), base or {}, points or [])


def test_base_is_below_the_point_and_fix_above_it() -> None:
    campaign = plan({"lr": 0.5, "epochs": 7, "warmup_epochs": 2}, fix={"lr": "0.005", "epochs": "3", "img_size": "40"})
    assert {"lr", "img_size"}.isdisjoint(campaign.space.vary)
    job = campaign.job_config(campaign.space.default)
    assert (job.lr, job.epochs, job.warmup_epochs, job.img_size) == (0.005, 3, 2, 40)


def test_groups_of_options_are_merged_entry_by_entry() -> None:
    assert nest({"stage_1.lr": 0.1, "stage_1.epochs": 2, "loss": "mse"}) == {
        "stage_1": {"lr": 0.1, "epochs": 2},
        "loss": "mse",
    }
    assert merge({"stage_1": {"lr": 1, "epochs": 2}}, {"stage_1": {"lr": 3}}) == {"stage_1": {"lr": 3, "epochs": 2}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fix": {"img_size": 50}}, "--fix: img_size can't be 50; it is one of 40, 48, 64"),
        ({"fix": {"colour": 1}}, "unknown option --colour"),
        ({"search": "grid"}, "the grid has"),
        ({"search": "pbt", "fix": {"workers": 2}}, "trials of one worker: --fix workers=1"),
        ({"search": "pbt", "space": "fusion"}, "space fusion names none"),
        ({"points": [{"lr": 7}]}, "--points, point 1: lr can't be 7"),
    ],
)
def test_what_can_not_be_is_refused_in_a_line(options: dict[str, Any], message: str) -> None:
    options = dict(options)
    points = options.pop("points", [])
    with pytest.raises(UserError, match=message) as refused:
        plan(points=points, num_trials=24, **options)
    assert "\n" not in str(refused.value)


def test_a_wrong_file_or_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--space clasifier: must be one of classifier, classifier_cpu, fusion"):
        find_space("clasifier")
    with pytest.raises(UserError, match="--base: no file 'nothing'"):
        read_base("nothing", "train")
    assert read_base("fer2013-cpu", "train")["img_size"] == 96
    (tmp_path / "points.yaml").write_text("lr: 1")
    with pytest.raises(UserError, match="not a list of points"):
        read_points(str(tmp_path / "points.yaml"))
    config = TuneConfig(space="classifier_cpu", data="faces", warm_start="old", out_dir=str(tmp_path))
    with pytest.raises(UserError, match="no campaign 'old'"):
        earlier(config, find_space("classifier_cpu"))


def test_the_command_of_a_trial_gives_its_options_again() -> None:
    """What is printed is read by the job's own parser."""
    import shlex

    campaign = plan({"epochs": 4, "amp": False})
    point = campaign.space.default | {"lr": 0.0012345678901234, "mixing": "both", "scheduler": "onecycle"}
    job = campaign.job_config(point)
    words = shlex.split(command("train", job, "again"))
    assert words[:2] == ["fer", "train"]
    assert parse(TrainConfig, words[2:], "train") == job.model_copy(update={"name": "again"})
