"""What a trial leaves on disk, also when it dies while it writes."""

from pathlib import Path
from typing import Any

import pytest

from fer.tuning.checkpoints import Keeper, best_entry


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(text)
    return folder


def entry(number: int, score: float, **more: Any) -> dict[str, Any]:
    return {"round": number, "score": score, **more}


def test_the_last_and_the_best_checkpoint_stay(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "trial")
    for number, score in enumerate((0.1, 0.5, 0.3, 0.4), 1):
        keeper.save(entry(number, score), checkpoint(tmp_path / "loop", str(number)))
    assert keeper.best is not None
    assert keeper.last is not None
    assert (keeper.best / "weights").read_text() == "2"
    assert (keeper.last / "weights").read_text() == "4"
    assert len(list((tmp_path / "trial").glob("checkpoint_*"))) == 2


def test_a_trial_is_taken_up_where_its_last_complete_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path / "trial")
    keeper.save(entry(1, 0.1), checkpoint(tmp_path / "loop", "1"))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    second = checkpoint(tmp_path / "loop", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)  # the copy is whole, but has not got its name yet
        with pytest.raises(KeyboardInterrupt):
            keeper.save(entry(2, 0.2), second)
    again = Keeper(tmp_path / "trial")
    assert again.history == [entry(1, 0.1)]
    assert again.last is not None
    assert (again.last / "weights").read_text() == "1"
    again.save(entry(2, 0.3), checkpoint(tmp_path / "loop", "2"))
    assert Keeper(tmp_path / "trial").history == [entry(1, 0.1), entry(2, 0.3)]


def test_a_training_in_stages_is_judged_by_its_last() -> None:
    history = [entry(1, 0.9, stage="1"), entry(2, 0.3, stage="4"), entry(3, 0.5, stage="4"), entry(4, 0.5, stage="4")]
    assert best_entry(history)["round"] == 3
