"""An MLflow server on PostgreSQL takes several writers at once, as the workers and trials of a cluster are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fer.tracking import TrackingOptions, start_run
from tests.fixtures.mlflow_server import MlflowServer

WRITERS, POINTS = 2, 2000
PROGRAM = """
import json, sys
from fer.tracking import Run, TrackingOptions, start_run

number, shared, options = int(sys.argv[1]), Run(**json.loads(sys.argv[2])), json.loads(sys.argv[3])
own = start_run(TrackingOptions(**options), "writers", f"own-{number}", parent=shared)
for first in range(0, int(sys.argv[4]), 100):
    own.log_series("loss", [number + step / 10_000 for step in range(first, first + 100)], first)
    shared.log_series(f"loss-{number}", [1.0] * 100, first)
shared.set_tags({f"writer-{number}": "done"})
own.finish()
print(own.run_id)
"""


@pytest.mark.slow
def test_several_writers_lose_nothing(running_server: MlflowServer, tmp_path: Path) -> None:
    if not running_server.database.startswith("postgresql"):
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    from mlflow.tracking import MlflowClient

    options = {"storage": str(tmp_path), "tracking_uri": running_server.uri}
    shared = start_run(TrackingOptions(**options), "writers", "shared", buffer=str(tmp_path / "buffer"))
    words = [json.dumps(asdict(shared)), json.dumps(options), str(POINTS)]
    writers = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(number), *words], stdout=subprocess.PIPE, text=True)
        for number in range(WRITERS)
    ]
    own = [writer.communicate(timeout=400)[0].strip() for writer in writers]
    client = MlflowClient(running_server.uri)
    for number, run_id in enumerate(own):
        history = client.get_metric_history(run_id, "loss")
        assert sorted((each.step, each.value) for each in history) == [
            (step, number + step / 10_000) for step in range(POINTS)
        ]
        assert len(client.get_metric_history(shared.run_id, f"loss-{number}")) == POINTS
        assert client.get_run(run_id).info.status == "FINISHED"
    tags = client.get_run(shared.run_id).data.tags
    assert [tags[f"writer-{number}"] for number in range(WRITERS)] == ["done"] * WRITERS
