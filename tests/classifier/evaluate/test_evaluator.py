"""`fer evaluate` on tiny models and hand-made shards: label mapping, filters, both heads, output files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fer.classifier.evaluate.attributes import read_attributes
from fer.classifier.evaluate.evaluator import Evaluation, default_split, evaluate
from fer.classifier.evaluate.mistakes import MAX_MISTAKES
from fer.classifier.evaluate.options import EvaluateConfig
from fer.classifier.evaluate.results import EvaluationSetup, PredictionsFile, find_history, write_results
from fer.classifier.evaluate.summary import describe_coverage
from fer.classifier.predictor import Predictor
from fer.data.images import decode_rgb
from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.labels import LabelSpace, get_space
from jobs.evaluate import output_folder

Make = Callable[..., Any]
FER2013 = get_space("fer2013")
CPU = "cpu"


def evaluate_rows(*arguments: Any, **options: Any) -> tuple[Evaluation, pa.Table]:
    """The evaluation, and its predictions as one table."""
    batches: list[pa.Table] = []
    found = evaluate(*arguments, **options, sink=batches.append)
    return found, pa.concat_tables(batches)


@pytest.fixture
def model(make_classifier: Make, tmp_path: Path) -> Path:
    return make_classifier(tmp_path / "run/model")


def test_every_row_is_evaluated_once_and_in_order(model: Path, make_rows: Make, make_shards: Make) -> None:
    rows = make_rows(FER2013.labels, 50)
    predictor = Predictor([model], CPU, batch_size=8)
    found, table = evaluate_rows(predictor, make_shards({"test": rows}, FER2013), "test")
    probabilities = predictor.predict([decode_rgb(row["image"]) for row in rows]).probabilities
    predicted = [predictor.labels[index] for index in probabilities.argmax(axis=1)]
    accuracy = np.mean([label == row["label"] for label, row in zip(predicted, rows, strict=True)])
    assert found.expression is not None
    assert found.expression.accuracy.value == pytest.approx(accuracy)
    assert found.coverage.rows == found.expression.rows == 50
    assert table["path"].to_pylist() == [row["path"] for row in rows]
    assert table["predicted"].to_pylist() == predicted
    np.testing.assert_allclose(table["p_happy"].to_numpy(), probabilities[:, FER2013.index("happy")], atol=1e-5)


def test_the_worst_mistakes_are_kept_with_their_images(model: Path, make_rows: Make, make_shards: Make) -> None:
    rows = make_rows(FER2013.labels, 80)
    found, table = evaluate_rows(Predictor([model], CPU, batch_size=16), make_shards({"test": rows}, FER2013), "test")
    wrong = sorted((row["confidence"] for row in table.to_pylist() if row["predicted"] != row["true"]), reverse=True)
    assert [mistake.severity for mistake in found.mistakes] == pytest.approx(wrong[:MAX_MISTAKES])
    images = {row["path"]: row["image"] for row in rows}
    assert all(
        mistake.image == images[mistake.path] and mistake.true != mistake.predicted for mistake in found.mistakes
    )


def test_other_label_spaces_are_mapped_and_labels_without_a_counterpart_are_counted(
    model: Path, make_rows: Make, make_shards: Make
) -> None:
    affectnet = get_space("affectnet")
    labels = ("happiness", "sadness", "contempt", "surprise", "contempt")
    dataset = make_shards({"test": make_rows(labels, 50)}, affectnet)
    found, table = evaluate_rows(Predictor([model], CPU), dataset, "test")
    assert found.coverage.mapping["happiness"] == "happy"
    assert found.coverage.unknown_labels == {"contempt": 20}
    assert found.coverage.rows == 30
    assert found.coverage.missing_classes == ["angry", "disgust", "fear", "neutral"]
    assert found.expression is not None
    predicted = table["predicted"].to_pylist()
    assert found.coverage.predicted_missing == sum(label in found.coverage.missing_classes for label in predicted) > 0
    assert set(table["true"].to_pylist()) == {"happy", "sad", "surprise"}
    assert set(table["label"].to_pylist()) == {"happiness", "sadness", "surprise"}
    text = " ".join(describe_coverage(found))
    assert "contempt (20)" in text
    assert "happiness as happy" in text
    assert f"predicted these labels {found.coverage.predicted_missing} times" in text


def test_a_model_without_any_of_the_labels_is_an_error(model: Path, make_rows: Make, make_shards: Make) -> None:
    dataset = make_shards({"test": make_rows(("cat", "dog"), 4)}, LabelSpace("custom", ("cat", "dog")))
    with pytest.raises(UserError, match=r"has none of the data's labels \(cat, dog\)"):
        evaluate(Predictor([model], CPU), dataset, "test")


def test_the_filter_selects_matching_paths(model: Path, make_rows: Make, make_shards: Make) -> None:
    rows = make_rows(FER2013.labels, 30)
    for number, row in enumerate(rows):
        row["path"] = f"test/{'PrivateTest' if number % 3 else 'PublicTest'}_{number}.png"
    dataset = make_shards({"test": rows}, FER2013)
    predictor = Predictor([model], CPU)
    found, table = evaluate_rows(predictor, dataset, "test", "*PrivateTest*")
    assert (found.coverage.rows, found.coverage.filtered) == (20, 10)
    assert all("PrivateTest" in path for path in table["path"].to_pylist())
    with pytest.raises(UserError, match="no path of the split 'test' matches 'nothing'"):
        evaluate(predictor, dataset, "test", "nothing")


def test_the_default_split_is_test_else_val(make_rows: Make, make_shards: Make) -> None:
    rows = make_rows(FER2013.labels, 4)
    assert default_split(make_shards({"train": rows, "val": rows, "test": rows}, FER2013, "three")) == "test"
    assert default_split(make_shards({"train": rows, "val": rows}, FER2013, "two")) == "val"


def test_unreadable_images_are_left_out_or_stop_the_job(model: Path, make_rows: Make, make_shards: Make) -> None:
    rows = make_rows(FER2013.labels, 20)
    rows[3]["image"] = b"not an image"
    dataset, predictor = make_shards({"test": rows}, FER2013), Predictor([model], CPU)
    found = evaluate(predictor, dataset, "test", max_bad_fraction=0.1)
    assert found.coverage.unreadable == [("faces/0003.png", "truncated or damaged image")]
    assert found.coverage.rows == 19
    with pytest.raises(UserError, match=r"1 images can't be read \(faces/0003\.png"):
        evaluate(predictor, dataset, "test", max_bad_fraction=0.01)


@pytest.mark.parametrize("head", ["valence-arousal", "both"])
def test_valence_and_arousal(
    head: str, make_classifier: Make, make_rows: Make, make_shards: Make, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    valence = [float(value) for value in random.uniform(-1, 1, 40)]
    arousal = [None if number % 4 == 0 else value for number, value in enumerate(valence)]
    labels = ("happiness", "contempt")
    rows = make_rows(labels, 40, valence=[None] * 4 + valence[4:], arousal=arousal)
    dataset = make_shards({"test": rows}, get_space("affectnet"))
    folder = make_classifier(tmp_path / "run/model", head=head)
    predictor = Predictor([folder], CPU, batch_size=16)
    found = evaluate(predictor, dataset, "test")
    valued = found.affect["valence"].rows
    assert valued == 36
    assert found.affect["arousal"].rows == 30
    assert found.affect["arousal"].unlabelled == found.coverage.rows - 30
    if head == "both":
        assert found.expression is not None
        assert found.expression.rows == 20, "contempt has values, but the model has no such label"
    else:
        assert found.expression is None
        assert found.coverage.rows == 39, "the first row has neither value; its arousal is missing too"
        assert found.coverage.mapping == {}
        severities = [mistake.severity for mistake in found.mistakes]
        assert severities == sorted(severities, reverse=True)
    assert found.affect_points.shape == (found.coverage.rows, 2, 2)
    report = write_results(found, setup_for(folder, predictor, dataset), predictions_file(tmp_path), tmp_path / "out")
    assert "CCC, valence" in report.read_text()
    assert (report.parent / "valence-and-arousal.png").is_file()


def test_a_valence_arousal_model_needs_such_values(
    make_classifier: Make, make_rows: Make, make_shards: Make, tmp_path: Path
) -> None:
    dataset = make_shards({"test": make_rows(FER2013.labels, 8)}, FER2013)
    with pytest.raises(UserError, match="the data has no such values"):
        evaluate(Predictor([make_classifier(tmp_path / "va", head="valence-arousal")], CPU), dataset, "test")
    found = evaluate(Predictor([make_classifier(tmp_path / "both", head="both")], CPU), dataset, "test")
    assert found.expression is not None
    assert found.affect == {}


def predictions_file(folder: Path) -> Path:
    (folder / "rows.csv").write_text("path")
    return folder / "rows.csv"


def setup_for(folder: Path, predictor: Predictor, dataset: ShardedDataset, **options: Any) -> EvaluationSetup:
    return EvaluationSetup("a model", folder, predictor.specs[0], "a data set", dataset, {"tta": False}, **options)


def test_output_files(model: Path, make_rows: Make, make_shards: Make, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>.png"
    rows = make_rows(FER2013.labels, 30, group=[f"subject {number % 5}" for number in range(30)])
    for row in rows:
        row["path"] += evil
    dataset, folder = make_shards({"test": rows}, FER2013), model
    (folder.parent / "history.json").write_text(json.dumps([{"epoch": 1, "train_loss": 1.5, "val_accuracy": 0.2}]))
    predictor = Predictor([folder], CPU)
    with PredictionsFile(tmp_path / "predictions.csv") as predictions:
        found = evaluate(predictor, dataset, "test", sink=predictions.write)
    history = find_history(folder, predictor.specs[0], "runs")
    setup = setup_for(folder, predictor, dataset, history=history)
    report = write_results(found, setup, predictions.path, tmp_path / "out")

    names = {path.name for path in report.parent.iterdir()}
    plots = {"confusion-matrix.png", "reliability.png", "classes.png", "training.png"}
    assert names == {"report.html", "metrics.json", "predictions.csv"} | plots
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 4 + min(MAX_MISTAKES, len(found.mistakes))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "5 groups" in page
    metrics = json.loads((report.parent / "metrics.json").read_text())
    assert found.expression is not None
    assert metrics["expression"]["accuracy"] == found.expression.accuracy.model_dump()
    assert metrics["coverage"]["rows"] == 30
    assert metrics["versions"]["torch"]
    with (report.parent / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["path"] for line in lines] == [row["path"] for row in rows]
    assert sum(float(lines[0][f"p_{label}"]) for label in FER2013.labels) == pytest.approx(1, abs=1e-5)

    private = write_results(found, setup, predictions_file(tmp_path), tmp_path / "out2", thumbnails=False)
    assert private.read_text().count("data:image/png;base64,") == 4
    assert evil.removeprefix("<script>") not in private.read_text(), "paths can name people too"


def test_metrics_by_group_and_a_list_for_review(
    model: Path, make_rows: Make, make_shards: Make, tmp_path: Path
) -> None:
    rows = make_rows(FER2013.labels, 90)
    ages = ["young", "old", None] * 30
    lines = [f"{row['path']},{age or ''}" for row, age in zip(rows, ages, strict=True)]
    (tmp_path / "people.csv").write_text("\n".join(["path,age", *lines]))
    predictor, dataset = Predictor([model], CPU, batch_size=16), make_shards({"test": rows}, FER2013)
    attributes = read_attributes(str(tmp_path / "people.csv"), ["age"])
    with PredictionsFile(tmp_path / "predictions.csv", 0.4) as predictions:
        options: dict[str, Any] = {"attributes": attributes, "min_confidence": 0.4}
        found = evaluate(predictor, dataset, "test", sink=predictions.write, **options)
    report = write_results(found, setup_for(model, predictor, dataset), predictions.path, tmp_path / "out")
    with (report.parent / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    (by_age,) = found.subgroups
    assert list(by_age.groups) == ["old", "young"]
    assert by_age.unknown == 30
    young = [line["predicted"] == line["true"] for line, age in zip(predicted, ages, strict=True) if age == "young"]
    assert by_age.groups["young"].accuracy.value == pytest.approx(np.mean(young))
    uncertain = [line for line in predicted if float(line["confidence"]) < 0.4]
    with (report.parent / "review.csv").open() as file:
        assert list(csv.DictReader(file)) == uncertain
    assert found.review is not None
    assert found.review.uncertain == len(uncertain) > 0
    sure = [line["predicted"] == line["true"] for line in predicted if float(line["confidence"]) >= 0.4]
    assert (found.review.confident, found.review.hits) == (len(sure), sum(sure))
    assert f"{len(uncertain)} of 90 labelled rows have a confidence below 0.4" in report.read_text()
    assert "By age" in report.read_text()
    metrics = json.loads((report.parent / "metrics.json").read_text())
    assert metrics["subgroups"]["age"]["groups"]["old"]["rows"] == 30


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "runs/first/evaluation-fer2013-test"),
        ({"filter": "*PrivateTest*", "tta": True}, "runs/first/evaluation-fer2013-test-PrivateTest-tta"),
        ({"model": "models:/faces@champion"}, "results/models-faces-champion/evaluation-fer2013-test"),
        ({"out": "here"}, "here"),
    ],
)
def test_the_output_folder(options: dict[str, Any], folder: str) -> None:
    config = EvaluateConfig(**{"model": "m", "data": "sets/fer2013.zip", "storage": "results"} | options)
    assert output_folder(config, "runs/first/model", "test") == folder


def test_exports_and_checkpoints_of_a_run_have_output_folders_of_their_own() -> None:
    config = EvaluateConfig(model="m", data="sets/fer2013.zip")
    for folder in ("model-onnx-int8", "checkpoint_000001"):
        assert output_folder(config, f"runs/first/{folder}", "test") == f"runs/first/evaluation-fer2013-test-{folder}"
    assert output_folder(config, "faces", "test") == "./evaluation-fer2013-test-faces"


def test_the_command(
    make_classifier: Make,
    make_rows: Make,
    make_shards: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jobs.__main__ import main

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    make_classifier(tmp_path / "runs/first/model")
    dataset = make_shards({"val": make_rows(FER2013.labels, 30)}, FER2013)
    common = ["evaluate", str(tmp_path / "runs" / "first"), "--data", dataset.root, "--storage", str(tmp_path / "runs")]
    assert main([*common, "--device", "cpu", "--tta"]) == 0
    output = capsys.readouterr().out
    report = tmp_path / "runs" / "first" / "evaluation-faces-val-tta" / "report.html"
    assert str(report) in output
    assert report.is_file()
    for text in ("Evaluated 30 of the 30 rows of the split 'val'", "Accuracy", "95% interval", "surprise"):
        assert text in output
    assert main([*common, "--split", "test"]) == 2
    assert "has no split 'test'; it has: val" in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_cluster_the_model_runs_in_a_task(
    model: Path,
    make_rows: Make,
    make_shards: Make,
    ray_cluster: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same results as in this process, mistakes included; and no model is loaded here."""
    import cluster.local
    from jobs.__main__ import main

    dataset = make_shards({"train": make_rows(FER2013.labels, 30), "test": make_rows(FER2013.labels, 200)}, FER2013)
    common = ["evaluate", str(model), "--data", dataset.root, "--storage", str(tmp_path / "runs"), "--batch-size", "16"]
    assert main([*common, "--out", str(tmp_path / "here"), "--device", "cpu"]) == 0
    monkeypatch.setattr(cluster.local, "is_local", lambda: False)
    monkeypatch.setattr(Predictor, "__init__", None)
    assert main([*common, "--out", str(tmp_path / "ray")]) == 0
    assert "Ray has no GPU here: the model runs on CPUs." in capsys.readouterr().err
    here, there = (tmp_path / name for name in ("here", "ray"))
    rows = [list(csv.DictReader((out / "predictions.csv").open())) for out in (here, there)]
    assert [[row["path"], row["predicted"]] for row in rows[0]] == [[row["path"], row["predicted"]] for row in rows[1]]
    confidences = [[float(row["confidence"]) for row in its] for its in rows]
    assert confidences[1] == pytest.approx(confidences[0], abs=1e-5), "the threads of both processes may differ"
    one, other = (json.loads((out / "metrics.json").read_text()) for out in (here, there))
    assert one["expression"]["macro_f1"] == other["expression"]["macro_f1"]
    assert other["settings"]["device"] == "cpu"

    assert main([*common, "--filter", "nothing"]) == 2
    assert capsys.readouterr().err.strip().endswith("no path of the split 'test' matches 'nothing'")
    assert main([*common, "--device", "gpu"]) == 2
    assert "--device gpu: the cluster has no GPU" in capsys.readouterr().err
