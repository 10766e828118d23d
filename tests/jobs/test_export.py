"""`fer export`: every format and precision, the check against the original, and the registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer.classifier.evaluate.evaluator import evaluate
from fer.classifier.predictor import Predictor
from fer.classifier.spec import ModelSpec
from fer.data.images import encode_png
from fer.data.manifest import ShardedDataset
from fer.models.folder import read_spec
from fer.registry import model_version, register, resolve_model
from fer.tracking import TrackingOptions, start_run
from jobs.__main__ import main

Make = Callable[..., Path]
VARIANTS = [("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8")] + [
    ("openvino", precision) for precision in ("fp32", "fp16", "bf16", "int8")
]


@pytest.fixture(scope="module")
def trained(make_classifier: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and shards whose labels are its predictions, so that its accuracy is 100%."""
    root = tmp_path_factory.mktemp("export")
    folder = make_classifier(root / "run" / "model")
    (folder / "README.md").write_text("# Card")
    write_faces(root / "faces", Predictor([folder], "cpu"), 400)
    assert main(["prepare", "--data", str(root / "faces"), "--out", str(root / "shards"), "--val-split", "0.5"]) == 0
    return root


def write_faces(folder: Path, predictor: Predictor, count: int) -> None:
    """Pictures of smooth noise in folders that are named by the labels that ``predictor`` gives them.

    Of twice as many, those whose label has the largest margin: small differences do not change it.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (2 * count, 4, 4, 3), dtype=np.uint8)
    images = [np.kron(pixels, np.ones((8, 8, 1), np.uint8)) for pixels in coarse]
    probabilities = predictor.predict(images).probabilities
    assert probabilities is not None
    lower, upper = np.sort(np.log(probabilities), axis=1)[:, -2:].T
    for number in np.argsort(lower - upper)[:count]:
        label = folder / predictor.labels[probabilities[number].argmax()]
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{number}.png").write_bytes(encode_png(images[number]))


@pytest.mark.parametrize(("form", "precision"), VARIANTS)
def test_every_form_predicts_nearly_the_same(
    trained: Path, tmp_path: Path, form: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--format", form, "--precision", precision, "--data", str(trained / "shards")]
    if precision == "int8":
        arguments += ["--max-loss", "1"]  # on CPUs without instructions for int8, one or two of 199 labels differ
    assert main(["export", str(trained / "run"), *arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "validation images)" in printed
    assert "original 100.00%" in printed
    spec = read_spec(out, ModelSpec)
    assert (spec.format, spec.precision) == (form, precision)
    assert spec.reference
    assert sum(spec.reference.labels) == ShardedDataset(str(trained / "shards")).split("val").rows
    graph = {"onnx": {"model.onnx"}, "openvino": {"model.xml", "model.bin"}}[form]
    assert {file.name for file in out.iterdir()} == {"model.json", "model.safetensors", "README.md", *graph}

    dataset = ShardedDataset(str(trained / "shards"))
    one, other = (happy_scores(folder, dataset) for folder in (trained / "run" / "model", out))
    assert np.abs(one - other).max() < {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.1, "int8": 0.3}[precision]
    if precision == "int8":
        assert np.abs(one - other).max() > 1e-4, "it computes in int8"
        assert min((out / file).stat().st_size for file in graph) < 0.6 * (out / "model.safetensors").stat().st_size


def happy_scores(folder: Path, dataset: ShardedDataset) -> np.ndarray:
    batches: list[np.ndarray] = []
    evaluate(Predictor([folder], "cpu"), dataset, "val", sink=lambda rows: batches.append(rows["p_happy"].to_numpy()))
    return np.concatenate(batches)


@pytest.mark.slow
def test_a_loss_of_accuracy_is_refused_unless_allowed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Black training images calibrate ranges that the validation images leave."""
    black = encode_png(np.zeros((32, 32, 3), np.uint8))
    for file in (trained / "faces").rglob("*.png"):
        for split, image in (("train", black), ("val", file.read_bytes())):
            copy = tmp_path / "faces" / split / file.relative_to(trained / "faces")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(image)
    arguments = ["export", str(trained / "run"), "--precision", "int8", "--data", str(tmp_path / "faces")]
    arguments += ["--out", str(tmp_path / "out"), "--storage", str(tmp_path / "runs")]
    assert main(arguments) == 2
    assert "points worse" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--max-loss", "100"]) == 0
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_without_data_only_what_keeps_the_outputs_is_exported(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained / "run")]) == 0
    assert "images of noise)" in capsys.readouterr().out
    assert (trained / "run" / "model-onnx-fp32" / "model.onnx").is_file()
    assert main(["export", str(trained / "run"), "--precision", "int8"]) == 2
    assert "name one with --data" in capsys.readouterr().err
    assert main(["export", str(trained / "run"), "--precision", "bf16"]) == 2
    assert "needs --format openvino" in capsys.readouterr().err


@pytest.mark.slow
def test_a_registered_model_gets_a_version_with_tags_and_no_alias_moves(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    tracking = TrackingOptions(storage=str(tmp_path / "runs"))
    run = start_run(tracking, "tests", "a-run")
    shutil.copytree(trained / "run" / "model", tmp_path / "copy")
    register(tracking, run.run_id, tmp_path / "copy", "face", "champion")
    arguments = ["--precision", "fp16", "--storage", tracking.storage]
    assert main(["export", "models:/face@champion", *arguments]) == 0
    assert "Registered: as version 2 of the same model" in capsys.readouterr().out

    assert model_version("models:/face@champion", tracking) == "1"
    tags = MlflowClient(run.uri).get_model_version("face", "2").tags
    assert tags == {"format": "onnx", "precision": "fp16", "source_version": "1"}
    assert read_spec(resolve_model("models:/face/2", tracking), ModelSpec).precision == "fp16"
    assert (tmp_path / "runs" / "models-face-champion-onnx-fp16" / "model.onnx").is_file()
