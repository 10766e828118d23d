"""Configs: precedence, and user errors in one line with exit code 2."""

from pathlib import Path

import pytest

from fer.classifier.options import TrainConfig
from fer.errors import UserError
from fer.options import parse
from jobs.__main__ import main
from jobs.commands import RECIPES


def read(*argv: str, recipes: Path | None = None) -> TrainConfig:
    return parse(TrainConfig, argv, "train", recipes)


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lr: 0.2\nepochs: 7\n")
    monkeypatch.setenv("FER_TRAIN_LR", "0.3")
    monkeypatch.setenv("FER_TRAIN_EPOCHS", "8")
    monkeypatch.setenv("FER_TRAIN_BATCH_SIZE", "9")
    config = read("--data", "d", "--lr", "0.1", "--config", str(file))
    assert (config.lr, config.epochs, config.batch_size, config.weight_decay) == (0.1, 7, 9, 1e-4)


def test_recipe_by_name() -> None:
    config = read("--data", "d", "--config", "resnet50-six-class", "--batch-size", "8", recipes=RECIPES / "train")
    assert (config.backbone, config.max_lr, config.mixup, config.batch_size) == ("resnet50", 5e-4, 0.2, 8)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (RECIPES / "train").glob("*.yaml")))
def test_every_recipe_is_a_valid_config(recipe: str) -> None:
    assert read("--data", "d", "--config", recipe, recipes=RECIPES / "train").data == "d"


def test_flags_can_be_turned_off() -> None:
    assert read("--data", "d", "--no-amp").amp is False
    assert read("--data", "d", "--class-weights").class_weights is True


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--data", "d", "--lr", "-1"], "--lr: input should be greater than 0"),
        (["--data", "d", "--val-split", "1.5"], "--val-split: input should be less than 1"),
        (["--data", "d", "--bogus", "1"], "--bogus"),
        (
            ["--data", "d", "--loss", "hinge"],
            "--loss: must be one of ce, focal, bootstrap-soft, bootstrap-hard or module:object",
        ),
        (["--data", "d", "--in-chans", "2"], "1 for grey or 3 for colour"),
        (["--data", "d", "--config", "no-such-recipe"], "recipes: baseline-resnet18"),
        (["--data", "d", "--margin", "arcface", "--mixup", "0.2"], "--margin needs one label per image"),
        (["--data", "d", "--keep", "last", "--patience", "3"], "--keep last trains all epochs: use --keep best, or"),
        ([], "--data is required"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(
    argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *argv]) == 2
    message = capsys.readouterr().err.strip()
    assert reason in message
    assert message.startswith("fer train: ")
    assert "\n" not in message


def test_unknown_key_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rate: 1\n")
    with pytest.raises(UserError, match="unknown option --learning-rate"):
        read("--data", "d", "--config", str(file))


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err


def test_a_missing_data_set_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path / "nowhere"), "--storage", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
