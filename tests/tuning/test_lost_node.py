"""A sweep whose only node is taken away, and replaced by another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EPOCHS = 8


@pytest.mark.faults
@pytest.mark.slow
def test_a_trial_goes_on_from_its_checkpoint_on_another_node(
    start_nodes: Callable[..., Any], small_shards: Path, tmp_path: Path
) -> None:
    words = ["-m", "jobs", "tune", "--space", "classifier_cpu", "--data", str(small_shards), "--storage", str(tmp_path)]
    words += ["--name", "spot", "--num-trials", "1", "--search", "random", "--scheduler", "none"]
    fixed = {"img_size": 40, "backbone": "narrow", "epochs": EPOCHS, "decode_threads": 1, "batch_size": 32}
    words += [word for name, value in fixed.items() for word in ("--set", f"{name}={value}")]

    def trial() -> dict[str, Any]:
        file = tmp_path / "spot" / "trials" / "000" / "trial.json"
        return json.loads(file.read_text()) if file.exists() else {"history": []}

    with start_nodes() as nodes:
        nodes.add(cpus=2)
        driver = nodes.run(*words)
        deadline = time.monotonic() + 400
        while len(trial()["history"]) < 2:
            assert driver.poll() is None, driver.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        before = trial()
        nodes.remove_oldest()
        nodes.add(cpus=2)
        output, _ = driver.communicate(timeout=400)
    after = trial()
    assert "trial-000 was lost (" in output
    assert (driver.returncode, after["state"], after["attempts"]) == (0, "finished", 2), output
    assert after["history"][: len(before["history"])] == before["history"], "its results are kept"
    assert [entry["trial_epoch"] for entry in after["history"]] == list(range(1, EPOCHS + 1))
