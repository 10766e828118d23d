"""Rows that a model was trained on are not evaluated unnoticed, whatever the options and the form of the data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fer.classifier.spec import ModelSpec
from fer.data.options import DataOptions, PrepareOptions
from fer.data.prepare import open_dataset, prepare
from fer.data.synthetic import write_faces
from fer.data.training_data import record_data
from fer.models.folder import read_spec
from fer.registry import SPEC
from jobs.__main__ import main
from jobs.export import ExportConfig, find_dataset

Evaluate = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def root(make_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 faces, and a model that says it was trained on them with --val-split 0.05."""
    root = tmp_path_factory.mktemp("overlap")
    write_faces(root / "faces", per_class=43, size=32)
    options = DataOptions(data=str(root / "faces"), val_split=0.05)
    dataset = open_dataset(options, cache=str(root / "runs" / "data"))
    folder = make_classifier(root / "run" / "model", "basic")
    spec = read_spec(folder, ModelSpec).model_copy(update={"data": record_data(dataset)})
    spec.training["data"] = options.data
    (folder / SPEC).write_text(spec.model_dump_json())
    return root


@pytest.fixture
def evaluate(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Evaluate:
    """evaluate(data, *options): the exit code of the command, and what it printed."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(data: Path, *options: str, model: str = "") -> tuple[int, str]:
        arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--storage", str(root / "runs")]
        code = main(["evaluate", model or str(root / "run"), *arguments, "--device", "cpu", *options])
        streams = capsys.readouterr()
        lines = (streams.out if code == 0 else streams.err).splitlines()
        return code, "\n".join(line for line in lines if not line.endswith(("is up to date", "for validation too")))

    return run


def test_the_splits_are_those_of_the_training(root: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    code, printed = evaluate(root / "faces")
    assert code == 0
    assert printed.startswith(
        "14 of the 14 evaluated rows are of the training's validation split, which chose the weights"
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["settings"]["val_split"] == 0.05
    assert metrics["coverage"]["training"] == {"trained": 0, "chose_weights": 14, "exact": True}
    assert "which chose the weights" in (tmp_path / "out" / "report.html").read_text()


def test_other_splits_of_the_same_data_are_refused(root: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    code, error = evaluate(root / "faces", "--val-split", "0.1")
    assert code == 2
    assert "the model was trained on rows of the split 'val', such as faces/" in error
    assert "--allow-training-rows" in error
    code, printed = evaluate(root / "faces", "--val-split", "0.1", "--allow-training-rows")
    assert code == 0
    assert printed.startswith(
        "14 of the 28 evaluated rows were trained on (--allow-training-rows): the metrics are too"
    )
    assert "14 of the 28 evaluated rows are of the training's validation split" in printed
    report = (tmp_path / "out" / "report.html").read_text()
    assert "14 of the 28 evaluated rows were trained on" in report


def test_the_training_split_is_refused_before_a_row_is_read(root: Path, evaluate: Evaluate) -> None:
    code, error = evaluate(root / "faces", "--split", "train")
    assert code == 2
    assert "trained on the split 'train'" in error
    code, printed = evaluate(root / "faces", "--split", "train", "--allow-training-rows")
    assert code == 0
    assert printed.startswith("287 of the 287 evaluated rows were trained on")


def test_shards_and_a_mix_of_the_same_faces_are_recognised(root: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    prepare(PrepareOptions(data=str(root / "faces"), out=str(tmp_path / "shards"), val_split=0.1))
    assert evaluate(tmp_path / "shards")[0] == 2
    write_faces(tmp_path / "others", per_class=5, size=32, seed=1)
    (tmp_path / "mix.yaml").write_text(
        f"label_space: basic\nsources: [{{data: {root}/faces, name: known}}, {{data: {tmp_path}/others}}]\n"
    )
    code, error = evaluate(tmp_path / "mix.yaml", "--val-split", "0.3")
    assert code == 2
    assert "such as known/" in error


def test_other_data_is_evaluated_without_ado(root: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    write_faces(tmp_path / "others", per_class=20, size=32, seed=1)
    code, printed = evaluate(tmp_path / "others", "--split", "train")
    assert code == 0
    assert printed.startswith("Evaluated 133 of the 133 rows of the split 'train'.")


def test_a_model_without_a_record_says_so(root: Path, evaluate: Evaluate) -> None:
    """Such as the one that comes with Ferry."""
    code, printed = evaluate(root / "faces", model="ferry-small")
    assert code == 0
    assert printed.startswith("The model does not record its training data")


def test_the_test_split_that_chose_the_weights_is_named(
    root: Path, evaluate: Evaluate, make_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    """With --val-split 0, the test split is used for validation."""
    write_faces(tmp_path / "all", per_class=6, size=32, seed=2)
    shutil.copytree(tmp_path / "all", tmp_path / "faces" / "train")
    write_faces(tmp_path / "faces" / "test", per_class=4, size=32, seed=3)
    options = DataOptions(data=str(tmp_path / "faces"), val_split=0)
    folder = make_classifier(tmp_path / "model", "basic")
    data = record_data(open_dataset(options, cache=str(root / "runs" / "data")))
    spec = read_spec(folder, ModelSpec).model_copy(update={"data": data})
    (folder / SPEC).write_text(spec.model_dump_json())
    code, printed = evaluate(tmp_path / "faces", model=str(folder))
    assert code == 0
    assert printed.startswith("28 of the 28 evaluated rows are of the training's validation split")


def test_an_export_is_checked_on_the_validation_split_of_the_training(root: Path) -> None:
    folder = root / "run" / "model"
    dataset = find_dataset(ExportConfig(model=str(folder), precision="int8", storage=str(root / "runs")), folder)
    record = read_spec(folder, ModelSpec).data
    assert dataset is not None
    assert record is not None
    assert dataset.manifest.content_hash == record.content_hash
    assert dataset.split("val").rows == 14
