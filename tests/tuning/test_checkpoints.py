"""What a trial saves, also when it is killed while saving."""

from pathlib import Path
from typing import Any

import pytest

from fer.tuning.checkpoints import TrialCheckpoints, best_entry


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(text)
    return folder


def entry(epoch: int, score: float, **more: Any) -> dict[str, Any]:
    return {"trial_epoch": epoch, "score": score, **more}


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(tmp_path / "trial")
    for number, score in enumerate((0.1, 0.5, 0.3, 0.4), 1):
        checkpoints.save(entry(number, score), checkpoint(tmp_path / "loop", str(number)))
    assert checkpoints.best is not None
    assert checkpoints.last is not None
    assert (checkpoints.best / "weights").read_text() == "2"
    assert (checkpoints.last / "weights").read_text() == "4"
    assert len(list((tmp_path / "trial").glob("checkpoint_*"))) == 2


def test_a_trial_resumes_from_its_last_complete_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = TrialCheckpoints(tmp_path / "trial")
    checkpoints.save(entry(1, 0.1), checkpoint(tmp_path / "loop", "1"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    second = checkpoint(tmp_path / "loop", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt)  # the copy is complete, but not yet renamed
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(entry(2, 0.2), second)
    resumed = TrialCheckpoints(tmp_path / "trial")
    assert resumed.history == [entry(1, 0.1)]
    assert resumed.last is not None
    assert (resumed.last / "weights").read_text() == "1"
    resumed.save(entry(2, 0.3), checkpoint(tmp_path / "loop", "2"))
    assert TrialCheckpoints(tmp_path / "trial").history == [entry(1, 0.1), entry(2, 0.3)]


def test_of_a_training_in_stages_only_the_last_counts() -> None:
    history = [entry(1, 0.9, stage="1"), entry(2, 0.3, stage="4"), entry(3, 0.5, stage="4"), entry(4, 0.5, stage="4")]
    assert best_entry(history)["trial_epoch"] == 3
