"""Runs, registered models and references to them, on a real SQLite MLflow."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from fer.errors import UserError
from fer.mlflow_buffer import flush
from fer.registry import canary_share, model_version, promote, register, register_variant, resolve_model
from fer.tracking import Run, TrackingOptions, start_run, tracking_uri


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingOptions:
    """One database for the module: creating one takes seconds."""
    return TrackingOptions(storage=str(tmp_path_factory.mktemp("tracking") / "runs"))


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def run(tracking: TrackingOptions) -> Run:
    return start_run(tracking, "tests", "a-run")


def model_folder(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("# Card")
    return folder


def stored(run: Run):  # type: ignore[no-untyped-def]
    from mlflow.tracking import MlflowClient

    return MlflowClient(run.uri).get_run(run.run_id)


def test_uri_is_the_option_then_the_environment_then_sqlite_in_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "runs"
    assert tracking_uri(TrackingOptions(storage=str(out))) == f"sqlite:///{out}/mlflow.db"
    assert out.is_dir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(TrackingOptions(storage=str(out))) == "http://server:5000"
    assert tracking_uri(TrackingOptions(tracking_uri="http://other:5000")) == "http://other:5000"


def test_a_remote_output_folder_needs_a_tracking_uri() -> None:
    with pytest.raises(UserError, match="--tracking-uri"):
        tracking_uri(TrackingOptions(storage="s3://bucket/runs"))


def test_a_run_stores_params_metrics_tags_and_artifacts(run: Run, tracking: TrackingOptions, tmp_path: Path) -> None:
    run.log_params({f"p{n}": n for n in range(150)})  # more than MLflow takes in one call
    run.log_metrics({"loss": 0.5, "accuracy": 0.25}, step=3)
    run.set_tags({"device": "cpu"})
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.txt").write_text("1 2 3")
    run.log_artifacts(tmp_path / "plots", "plots")
    run.finish()

    kept = stored(run)
    assert kept.data.params["p149"] == "149"
    assert kept.data.metrics == {"loss": 0.5, "accuracy": 0.25}
    assert kept.data.tags["device"] == "cpu"
    assert kept.info.status == "FINISHED"
    assert (Path(tracking.storage) / "mlartifacts" / run.run_id / "artifacts" / "plots" / "curve.txt").is_file()


def test_a_pickled_run_is_resumed_by_its_id(run: Run, tracking: TrackingOptions) -> None:
    run.log_params({"epochs": 1})
    run.set_status("FAILED")
    assert flush()
    again = pickle.loads(pickle.dumps(start_run(tracking, "tests", "a-run", run.run_id)))  # noqa: S301
    assert again == run
    assert stored(run).info.status == "RUNNING"
    again.log_params({"epochs": 2, "lr": 0.1})
    assert flush()
    assert stored(run).data.params == {"epochs": "1", "lr": "0.1"}


def test_resuming_an_unknown_run_is_a_user_error(tracking: TrackingOptions) -> None:
    with pytest.raises(UserError, match=r"MLflow at sqlite:.*abc123"):
        start_run(tracking, "tests", "a-run", "abc123")


def test_a_registered_model_is_found_by_alias_version_and_run(
    run: Run, tracking: TrackingOptions, tmp_path: Path
) -> None:
    version = register(tracking, run.run_id, model_folder(tmp_path / "m"), "found", "challenger")
    assert version == "1"
    for reference in ("models:/found@challenger", "models:/found/1", f"runs:/{run.run_id}/model"):
        folder = resolve_model(reference, tracking)
        assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert model_version("models:/found@challenger", tracking) == "1"
    assert model_version("models:/found/1", tracking) == "1"


def test_a_variant_is_a_tagged_version_without_an_alias(run: Run, tracking: TrackingOptions, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    register(tracking, run.run_id, model_folder(tmp_path / "one"), "varied", "champion")
    small = model_folder(tmp_path / "small", b"small")
    assert register_variant("models:/varied@champion", small, {"precision": "int8"}, tracking) == "2"
    assert (resolve_model("models:/varied/2", tracking) / "model.safetensors").read_bytes() == b"small"
    assert MlflowClient(run.uri).get_model_version("varied", "2").tags == {"precision": "int8", "source_version": "1"}
    assert model_version("models:/varied@champion", tracking) == "1"


def test_a_version_keeps_its_files_when_its_run_registers_again(
    run: Run, tracking: TrackingOptions, tmp_path: Path
) -> None:
    register(tracking, run.run_id, model_folder(tmp_path / "old", b"old"), "kept", "challenger")
    register(tracking, run.run_id, model_folder(tmp_path / "new", b"new"), "kept", "challenger")
    assert (resolve_model("models:/kept/1", tracking) / "model.safetensors").read_bytes() == b"old"
    assert (resolve_model("models:/kept@challenger", tracking) / "model.safetensors").read_bytes() == b"new"


def test_promote_moves_an_alias_and_returns_both_versions(run: Run, tracking: TrackingOptions, tmp_path: Path) -> None:
    for number in ("1", "2"):
        register(tracking, run.run_id, model_folder(tmp_path / number), "moved", "challenger")
    assert promote("moved", None, "champion", tracking) == (None, "2")
    assert promote("moved", "1", "champion", tracking) == ("2", "1")
    assert model_version("models:/moved@champion", tracking) == "1"


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("models:/nobody@champion", "no registered model 'nobody'.*registered: .*listed"),
        ("models:/listed@best", "no alias 'best'; versions: 1; aliases: challenger -> 1"),
        ("models:/listed/7", "no version '7'; versions: 1"),
        ("models:/listed", "write models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("runs:/abc/model", "abc"),
        ("no/such/folder", "no/such/folder/model"),
    ],
)
def test_an_unknown_reference_lists_the_alternatives(
    reference: str, reason: str, run: Run, tracking: TrackingOptions, tmp_path: Path
) -> None:
    if model_count(tracking, "listed") == 0:
        register(tracking, run.run_id, model_folder(tmp_path / "m"), "listed", "challenger")
    with pytest.raises(UserError, match=reason) as caught:
        resolve_model(reference, tracking)
    assert "\n" not in str(caught.value)


def model_count(tracking: TrackingOptions, name: str) -> int:
    from mlflow.tracking import MlflowClient

    return len(MlflowClient(tracking_uri(tracking)).search_model_versions(f"name = '{name}'"))


def test_promoting_an_unknown_version_lists_the_alternatives(
    run: Run, tracking: TrackingOptions, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no registered model 'nothing'"):
        promote("nothing", "1", "champion", tracking)
    register(tracking, run.run_id, model_folder(tmp_path / "m"), "lonely", "challenger")
    with pytest.raises(UserError, match="no version '3'; versions: 1"):
        promote("lonely", "3", "champion", tracking)
    with pytest.raises(UserError, match="no alias 'staging'"):
        promote("lonely", None, "champion", tracking, source="staging")


def test_folders_of_models_runs_and_checkpoints_are_found(tmp_path: Path) -> None:
    tracking = TrackingOptions(storage=str(tmp_path / "runs"))
    folder = model_folder(tmp_path / "runs" / "first" / "model")
    for reference in (str(folder), str(folder.parent), "first"):
        assert resolve_model(reference, tracking) == folder
    assert len(model_version(str(folder), tracking)) == 12
    assert not (tmp_path / "runs" / "mlflow.db").exists(), "a folder needs no database"


def test_a_folder_without_weights_has_no_version(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "adapter")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors in the model folder"):
        model_version(str(folder), TrackingOptions())


@pytest.mark.slow
def test_a_new_database_is_the_one_that_mlflow_makes_with_few_writes(tmp_path: Path) -> None:
    import mlflow.tracking

    process = psutil.Process()
    before = process.io_counters().write_count
    start_run(TrackingOptions(storage=str(tmp_path)), "tests", "a-run")
    ours = process.io_counters().write_count - before
    (tmp_path / "theirs").mkdir()
    mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/theirs/mlflow.db")
    theirs = process.io_counters().write_count - before - ours
    assert ours < theirs / 5
    assert schema(tmp_path / "mlflow.db") == schema(tmp_path / "theirs" / "mlflow.db")


def schema(file: Path) -> list[tuple[str, ...]]:
    """The version, and all tables, columns and indices. (The order of constraints is random.)"""
    with closing(sqlite3.connect(file)) as database:
        made = database.execute("SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2").fetchall()
        tables = [name for kind, name, _ in made if kind == "table"]
        columns = [row for table in tables for row in database.execute(f"PRAGMA table_info({table})")]
        return [*database.execute("SELECT version_num FROM alembic_version"), *made, *columns]


@pytest.mark.slow
def test_creating_a_database_prints_nothing(tmp_path: Path) -> None:
    code = (
        "from fer.tracking import start_run\nfrom fer.tracking import TrackingOptions\n"
        f"start_run(TrackingOptions(storage={str(tmp_path / 'runs')!r}), 'quiet', 'run').finish()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_command_prints_the_promoted_version(
    run: Run, tracking: TrackingOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.__main__ import run_job

    for number in ("1", "2"):
        register(tracking, run.run_id, model_folder(tmp_path / number), "commanded", "challenger")
    where = ["--storage", tracking.storage]
    assert run_job("promote", ["commanded", "--version", "1", *where]) == 0
    assert "models:/commanded@champion is now version 1 (a new alias)" in capsys.readouterr().out
    assert run_job("promote", ["commanded", "--from", "challenger", *where]) == 0
    assert "is now version 2 (before: 1)" in capsys.readouterr().out
    assert run_job("promote", ["commanded", "--canary", "0.3", *where]) == 0
    assert "version 2 of commanded now answers 30% of the clients" in capsys.readouterr().out
    assert canary_share("models:/commanded@champion", tracking) == 0.3
    assert canary_share("models:/commanded/1", tracking) is None
    assert run_job("promote", ["commanded", "--canary", "0.3", "--version", "1", *where]) == 2
    assert "leave out --if and --version" in capsys.readouterr().err
    assert run_job("promote", ["commanded", "--from", "nobody", *where]) == 2
    assert "no alias 'nobody'; versions: 1, 2" in capsys.readouterr().err
