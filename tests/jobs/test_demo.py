"""The demo, run as a newcomer runs it, here with few faces and one epoch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "jobs", "demo", "--storage", "demo", "--faces-per-class", "20", "--epochs", "1"]


@pytest.mark.slow
def test_the_demo_runs_and_its_output_raises_no_alarm(tmp_path: Path) -> None:
    # Ray Data would warn of a wait for data after a minute; here it does at once.
    env = environment(PYTHONPATH=str(ROOT), RAY_DATA_STARVATION_WARNING_DELAY_S="0")
    # Ray's workers have another working directory: a relative path must be the same one for them.
    demo = subprocess.run(
        COMMAND, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=800
    )
    output = demo.stdout
    assert demo.returncode == 0, output
    assert re.findall(r"^\[(\d)/7\]", output, re.MULTILINE) == list("1234567")
    for words in (
        "Accuracy on unseen people",
        "Chance, 7 classes",
        "server's prediction",
        "report.html",
        "mlflow.db",
        "ferry-small on",
    ):
        assert words in output
    assert (tmp_path / "demo" / "evaluation" / "report.html").is_file()
    assert (tmp_path / "demo" / "annotated" / "portrait.jpg").is_file()
    metrics = json.loads((tmp_path / "demo" / "evaluation" / "metrics.json").read_text())
    assert metrics["coverage"]["training"] == {"trained": 0, "chose_weights": 0, "exact": True}
    specs = [json.loads(file.read_text()) for file in (tmp_path / "demo").rglob("model/model.json")]
    assert specs
    assert all(sum(spec["reference"]["labels"]) > 0 for spec in specs), "drift has its reference"
    assert not re.findall(r".*(?:may hang|progress bars|warning|error:|traceback).*", output, re.IGNORECASE)
