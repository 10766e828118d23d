"""What a trial saves, also when it is killed while saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fer.storage import open_path
from fer.tuning import checkpoints as checkpoints_module
from fer.tuning.checkpoints import TrialCheckpoints, best_entry

if TYPE_CHECKING:
    from upath import UPath


@pytest.fixture(params=["disk", "S3"])
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """A trial's folder, on local disk and in an object store."""
    if request.param == "disk":
        return open_path(str(tmp_path / "trial"))
    request.getfixturevalue("s3")
    return open_path(f"s3://bucket/{tmp_path.name}/trial")


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(text)
    return folder


def entry(epoch: int, score: float, **more: Any) -> dict[str, Any]:
    return {"trial_epoch": epoch, "score": score, **more}


def test_the_last_and_the_best_checkpoint_are_kept(trial: UPath, tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(trial)
    for number, score in enumerate((0.1, 0.5, 0.3, 0.4), 1):
        checkpoints.save(entry(number, score), checkpoint(tmp_path / "loop", str(number)))
    assert checkpoints.best is not None
    assert checkpoints.last is not None
    assert (checkpoints.best / "weights").read_text() == "2"
    assert (checkpoints.last / "weights").read_text() == "4"
    assert len(list(trial.glob("checkpoint_*/weights"))) == 2


def test_a_trial_resumes_from_its_last_complete_checkpoint(
    trial: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = TrialCheckpoints(trial)
    checkpoints.save(entry(1, 0.1), checkpoint(tmp_path / "loop", "1"))
    upload = checkpoints_module.upload_folder

    def upload_and_die(folder: Path, location: str) -> None:
        upload(folder, location)
        raise KeyboardInterrupt

    second = checkpoint(tmp_path / "loop", "2")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "upload_folder", upload_and_die)  # it is complete, but not marked
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(entry(2, 0.2), second)
    resumed = TrialCheckpoints(trial)
    assert resumed.history == [entry(1, 0.1)]
    assert resumed.last is not None
    assert (resumed.last / "weights").read_text() == "1"
    resumed.save(entry(2, 0.3), checkpoint(tmp_path / "loop", "2"))
    assert TrialCheckpoints(trial).history == [entry(1, 0.1), entry(2, 0.3)]


def test_of_a_training_in_stages_only_the_last_counts() -> None:
    history = [entry(1, 0.9, stage="1"), entry(2, 0.3, stage="4"), entry(3, 0.5, stage="4"), entry(4, 0.5, stage="4")]
    assert best_entry(history)["trial_epoch"] == 3
