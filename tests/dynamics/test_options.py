"""Options of `fer dynamics` and its subcommands: stages, recipes, and user errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer.dynamics.options import DynamicsConfig
from fer.options import parse
from jobs.__main__ import main
from jobs.commands import JOBS, RECIPES


def read(*argv: str) -> DynamicsConfig:
    return parse(DynamicsConfig, argv, "dynamics", RECIPES / "dynamics")


def test_options_of_a_stage_from_file_and_command_line(tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text("stage_2b: {epochs: 7}\nstage_4: {lr: 1.0e-5, scheduler: onecycle}\n")
    config = read("--data", "d", "--config", str(tmp_path / "stages.yaml"), "--stage-2b.patience", "3")
    assert (config.stage_2b.epochs, config.stage_2b.patience, config.stage_2b.lr) == (7, 3, 1e-3)
    assert config.stage_2b.train == ["blendshapes", "mlp"]
    assert (config.stage_4.lr, config.stage_4.scheduler) == (1e-5, "onecycle")
    assert (config.stage_2a.lr, config.stage_2a.train) == (0.01, ["mlp"])


def test_every_recipe_is_a_valid_config() -> None:
    for recipe in (RECIPES / "dynamics").glob("*.yaml"):
        assert read("--data", "d", "--config", recipe.stem).data == "d"


def test_the_stages_to_run() -> None:
    assert read("--data", "d").stages == ["1", "2a", "2b", "3", "4"]
    assert read("--data", "d", "--stages", "2a,2b").stages == ["2a", "2b"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dynamics", "--data", "nowhere"], "nowhere"),
        (["dynamics", "--data", "."], "has no frames"),
        (["dynamics", "--data", "d", "--folds", "1"], "--folds 1"),
        (["dynamics", "--data", "d", "--stages", "5"], "--stages"),
        (["dynamics", "--data", "d", "--stage-1.lr", "-1"], "--stage-1.lr: input should be greater than 0"),
        (["dynamics", "--data", "d", "--stage-1.train", "flow,mlp"], "add fusion"),
        (["dynamics", "predict", "--model", "nothing", "x.csv"], "no model 'nothing'"),
        (["dynamics", "import-blendshapes", "gone.task"], "no file gone.task"),
        (["dynamics", "serve", "--model", "nothing"], "no model 'nothing'"),
        (["dynamics", "extract", "a/x.mp4", "b/x.mp4", "--out", "o"], "2 of the paths are named 'x'"),
        (["dynamics", "extract", "x.mp4", "--out", "o", "--landmarker", "gone.task"], "no landmarker at gone.task"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    job = " ".join(argv[:2]) if " ".join(argv[:2]) in JOBS else argv[0]
    assert error.startswith(f"fer {job}: ")
    assert "\n" not in error
