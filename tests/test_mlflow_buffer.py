"""What is logged while MLflow is down reaches it later, once: with a real server that is killed and started again."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ports import free_port
from fer import mlflow_buffer
from fer.errors import UserError
from fer.mlflow_buffer import EntryFile, flush, sync
from fer.mlflow_client import check_database, filesystem_type
from fer.mlflow_send import send
from fer.tracking import FULL_SERIES, Run, TrackingOptions, is_logged, start_run
from jobs.__main__ import run_job
from tests.fixtures.mlflow_server import MlflowServer
from tests.processes import running

SQLITE_RUN = {"run": "r", "uri": "sqlite:///nowhere.db"}


def point(step: int, run: str = "r") -> dict:
    return SQLITE_RUN | {"run": run, "metrics": [["loss", 0.5, 1000, step]]}


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_the_owners_and_is_sent_in_order(tmp_path: Path) -> None:
    file = EntryFile.create(tmp_path)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    for entry in (point(0), point(1), SQLITE_RUN | {"tags": {"a": "b"}}, point(2), point(3, run="other")):
        file.append(entry)
    sent = []
    while batch := file.next_batch():
        sent.append(batch[0])
        file.mark_sent(batch[1])
    assert [entry.get("metrics") for entry in sent] == [
        [["loss", 0.5, 1000, 0], ["loss", 0.5, 1000, 1]],  # one request
        None,
        [["loss", 0.5, 1000, 2]],
        [["loss", 0.5, 1000, 3]],
    ]
    assert file.path.stat().st_size == 0
    file.append(point(4))
    assert file.next_batch()[0] == point(4)


def test_a_file_is_claimed_when_its_process_is_dead(tmp_path: Path) -> None:
    program = (
        "import os, pathlib; from fer.mlflow_buffer import EntryFile\n"
        f"file = EntryFile.create(pathlib.Path({str(tmp_path)!r}))\n"
        "file.append({'uri': 'u', 'run': 'r', 'tags': {}}); os.write(file.descriptor, b'{half a line')\n"
        "print(flush=True); input()"
    )
    with running([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (path,) = mlflow_buffer.entry_files(tmp_path)
        assert EntryFile.claim(path) is None
        with pytest.raises(UserError, match="still runs, and sends it itself"):
            sync(tmp_path)
    file = EntryFile.claim(path)
    entry, end = file.next_batch()
    assert entry == {"uri": "u", "run": "r", "tags": {}}
    file.mark_sent(end)
    assert file.next_batch() is None  # the half line is none


def test_long_series_are_thinned() -> None:
    kept = [step for step in range(3 * 10**6) if is_logged(step)]
    assert kept[:FULL_SERIES] == list(range(FULL_SERIES))
    assert kept[FULL_SERIES : FULL_SERIES + 2] == [100_000, 100_010]
    assert kept[-2:] == [2_999_800, 2_999_900]
    assert len(kept) == 100_000 + 90_000 + 20_000


# -- databases ---------------------------------------------------------------------------------------------------------

MOUNTS = [("/", "ext4"), ("/home", "nfs4"), ("/home/ann/local", "xfs"), ("/mnt/share", "cifs")]


def test_the_innermost_mount_tells_the_file_system() -> None:
    for path, kind in {"/srv/a": "ext4", "/home/ann/runs": "nfs4", "/home/ann/local/runs": "xfs"}.items():
        assert filesystem_type(Path(path), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_is_refused_with_the_way_out() -> None:
    for uri in ("sqlite:////home/ann/runs/mlflow.db", "sqlite:////mnt/share/mlflow.db"):
        with pytest.raises(UserError, match=r"network file system \((nfs4|cifs)\).*local disk.*mlflow server"):
            check_database(uri, mounts=MOUNTS)
    check_database("sqlite:////home/ann/local/mlflow.db", mounts=MOUNTS)
    check_database("http://server:5000", hosts=12, mounts=MOUNTS)


def test_sqlite_written_from_several_nodes_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"can't be written from 3 nodes; run a server"):
        check_database("sqlite:////srv/mlflow.db", hosts=3, mounts=MOUNTS)


# -- a server that goes and comes back ---------------------------------------------------------------------------------


@pytest.fixture
def run(running_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # of the client, which take 15 seconds
    monkeypatch.setattr(mlflow_buffer, "RETRY_SECONDS", 0.2)
    options = TrackingOptions(storage=str(tmp_path), tracking_uri=running_server.uri)
    return start_run(options, "buffer", "a-run", buffer=str(tmp_path / "run" / "mlflow"))


def stored(run: Run):  # type: ignore[no-untyped-def]
    from mlflow.tracking import MlflowClient

    return MlflowClient(run.uri).get_run(run.run_id)


def history(run: Run, name: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    return [(each.step, each.value) for each in MlflowClient(run.uri).get_metric_history(run.run_id, name)]


@pytest.mark.slow
def test_an_entry_that_is_sent_twice_is_stored_once(run: Run, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    entries = [
        {"metrics": [["loss", 0.5, 1000, 0], ["loss", float("nan"), 1000, 1], ["loss", float("inf"), 1000, 2]]},
        {"metrics": [["loss", 0.5, 1000, 0], ["loss", 0.25, 2000, 3]]},
        {"params": {"lr": "0.1"}},
        {"params": {"lr": "0.2", "epochs": "3"}},
        {"tags": {"device": "cpu"}},
        {"status": "FINISHED", "time": 5000},
    ]
    for entry in 2 * entries:
        send(MlflowClient(run.uri), {"uri": run.uri, "run": run.run_id, **entry}, tmp_path)
    assert [step for step, _ in history(run, "loss")] == [0, 1, 2, 3]
    assert stored(run).data.params == {"lr": "0.1", "epochs": "3"}
    assert (stored(run).info.status, stored(run).info.end_time) == ("FINISHED", 5000)


@pytest.mark.faults
@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_the_server_is_down(
    run: Run, running_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.log_metrics({"accuracy": 0.1}, step=1)
    assert flush()
    running_server.kill()
    started = time.monotonic()
    run.log_metrics({"accuracy": 0.2}, step=2)
    run.log_series("step_loss", [step / 10 for step in range(2500)], first_step=0)
    run.log_params({"lr": 0.1})
    (tmp_path / "page.html").write_text("<p>")
    run.log_artifacts(tmp_path / "page.html", "pages")
    (tmp_path / "page.html").unlink()
    child = start_run(TrackingOptions(tracking_uri=run.uri), "buffer", "its-child", parent=run)
    child.log_metrics({"score": 1.0}, step=0)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    assert run.register(model, str(model), "buffered", "challenger") is None
    assert time.monotonic() - started < 60
    run.set_status("FINISHED")
    assert not flush(seconds=1)
    assert f"fer mlflow sync {tmp_path}/run/mlflow" in capsys.readouterr().out

    running_server.start()
    assert wait_until_sent()
    assert "MLflow is back" in capsys.readouterr().out
    assert [step for step, _ in history(run, "accuracy")] == [1, 2]
    assert history(run, "step_loss") == [(step, step / 10) for step in range(2500)]
    assert stored(run).data.params == {"lr": "0.1"}
    assert stored(run).info.status == "FINISHED"
    check_artifacts_and_models(run)
    assert not (tmp_path / "run" / "mlflow").exists(), "nothing is left"


def wait_until_sent() -> bool:
    for sender in mlflow_buffer._senders.values():
        sender.gave_up = False
    return flush(120)


def check_artifacts_and_models(run: Run) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(run.uri)
    assert [each.path for each in client.list_artifacts(run.run_id, "pages")] == ["pages/page.html"]
    version = client.get_model_version_by_alias("buffered", "challenger")
    assert (version.version, version.run_id) == ("1", run.run_id) or (int(version.version), version.run_id) == (
        1,
        run.run_id,
    )
    (child,) = client.search_runs([stored(run).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert (child.info.run_name, child.data.metrics) == ("its-child", {"score": 1.0})


@pytest.mark.slow
def test_the_command_sends_what_a_dead_process_has_left(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EntryFile.create(tmp_path / "runs" / "a-run" / "mlflow")
    for step in range(3):
        file.append({"uri": run.uri, "run": run.run_id, "metrics": [["loss", 0.5, 1000, step]]})
    file.append({"uri": run.uri, "run": "0" * 32, "tags": {"a": "b"}})  # a run that was deleted
    file.close()
    assert run_job("mlflow sync", [str(tmp_path / "nothing")]) == 2
    assert run_job("mlflow sync", [str(tmp_path / "runs")]) == 0
    assert "MLflow refuses an entry of run 00000" in capsys.readouterr().out
    assert [step for step, _ in history(run, "loss")] == [0, 1, 2]
    assert [path.suffix for path in (tmp_path / "runs" / "a-run" / "mlflow").iterdir()] == [".refused"]


def test_the_command_keeps_what_a_server_that_is_down_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file = EntryFile.create(tmp_path / "runs" / "a-run" / "mlflow")
    file.append(point(0) | {"uri": f"http://127.0.0.1:{free_port()}"})
    file.close()
    kept = file.path.read_bytes()
    assert run_job("mlflow sync", [str(tmp_path / "runs")]) == 2
    assert "MLflow is down (" in capsys.readouterr().err
    assert file.path.read_bytes() == kept
