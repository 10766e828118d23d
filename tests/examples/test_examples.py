"""Every example runs as its docstring says, offline, on data that it makes itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "custom_reward": "right, with a reason         1.60",
    "custom_ferbench_model": "gradient-model",
    "classify_folder": "confidence",
    "custom_source": "Model:   ",
    "server_client": "happy (",
}
"""A line of each example's output."""
USES_RAY = {"custom_source", "server_client"}
"""These connect to the Ray of the tests, as examples do on a cluster."""
SLOW = USES_RAY | {"custom_ferbench_model"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in EXPECTED]
)
def test_example_runs(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name in USES_RAY:
        request.getfixturevalue("ray_cluster")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert EXPECTED[name] in done.stdout


def test_every_example_is_run() -> None:
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == set(EXPECTED)
