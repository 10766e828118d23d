"""From files to prediction rows: images, folders, videos, faults, ensembles, and the forms of the answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fer.classifier.model import build_model, new_spec, save_model
from fer.classifier.options import ModelOptions
from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.reader import NO_FACE, UNCERTAIN, FileReader, PredictionRow, find_files, predict_files
from fer.classifier.predict.writers import Csv, JsonLines, RichTable, Tally, choose_format
from fer.data.images import encode_png
from fer.errors import UserError
from fer.labels import get_space, likely_compound

BASIC = get_space("basic")


def make_model(folder: Path, head: str = "classification", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32, head=head), BASIC)
    network = build_model(spec)
    with torch.no_grad():  # random heads are nearly flat: make the network say something
        for layer in filter(None, (network.expression, network.affect)):
            layer.weight.mul_(20)
    save_model(network, spec, folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images that can be read, two that can't, and a file of another kind."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.PNG", "sub/d.png"):
        (folder / name).write_bytes(encode_png(rng.integers(0, 256, (40, 36, 3), np.uint8)))
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A second of noise in twelve frames."""
    path = tmp_path / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 48))
    rng = np.random.default_rng(1)
    for _ in range(12):
        writer.write(np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))
    writer.release()
    return path


def reader(*models: Path, **options: object) -> FileReader:
    config = PredictConfig.model_validate({"model": "M", "paths": ["x"], "device": "cpu", **options})
    return FileReader(models, config, Path.cwd())


def read(path: Path | list[str], *models: Path, **options: object) -> list[PredictionRow]:
    paths = path if isinstance(path, list) else find_files([str(path)])
    return [row for rows in predict_files(reader(*models, **options), paths) for row in rows]


# Which files


def test_folders_are_searched_and_globs_expanded_and_each_file_comes_once(images: Path, video: Path) -> None:
    inside = [str(images / name) for name in ("a.png", "b.png", "broken.png", "c.PNG", "empty.jpg", "sub/d.png")]
    assert find_files([str(images)]) == inside
    assert find_files([str(images / "*.png"), str(images)]) == [inside[0], inside[1], inside[2], *inside[3:]]
    assert find_files([str(images / "**/d.png")]) == [inside[5]]
    assert str(video) in find_files([str(video.parent)])
    assert find_files([str(images / "notes.txt")]) == [str(images / "notes.txt")]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(images: Path) -> None:
    odd = images / "x[1].png"
    odd.write_bytes((images / "a.png").read_bytes())
    assert find_files([str(odd)]) == [str(odd)]


# Rows


def test_each_image_has_a_label_a_confidence_and_the_full_distribution(model: Path, images: Path) -> None:
    row = read(images / "a.png", model)[0]
    assert row.scores is not None
    assert list(row.scores) == list(BASIC.labels)
    assert sum(row.scores.values()) == pytest.approx(1, abs=1e-4)
    assert row.label == max(row.scores, key=row.scores.__getitem__)
    assert row.confidence == row.scores[row.label]
    assert row.face is row.box is row.valence is row.error is None


def test_compound_labels_are_those_of_the_two_likeliest_expressions(model: Path, images: Path) -> None:
    rows = [row for row in read(images, model, compound=True) if row.scores]
    assert [row.compound for row in rows] == [likely_compound(row.scores) for row in rows]
    assert all(row.compound is None for row in read(images, model))


def test_compound_labels_need_a_model_that_names_expressions(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--compound"):
        read(images / "a.png", make_model(tmp_path / "va", "valence-arousal"), compound=True)


def test_a_bad_file_costs_its_own_row_only(model: Path, images: Path) -> None:
    rows = {Path(row.path).name: row for row in read(images, model)}
    assert rows["broken.png"].error == "truncated or damaged image"
    assert rows["empty.jpg"].error == "empty file"
    assert [name for name, row in rows.items() if row.error is None] == ["a.png", "b.png", "c.PNG", "d.png"]


def test_each_file_is_decoded_once(model: Path, images: Path, count_decodes: Callable[[], int]) -> None:
    read([str(images / name) for name in ("a.png", "b.png")], model)
    assert count_decodes() == 2


def test_paths_that_lead_nowhere_have_a_row_that_says_so(model: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    rows = read(find_files([str(tmp_path / "hollow"), str(tmp_path / "gone.png"), str(tmp_path / "*.bmp")]), model)
    assert [row.error for row in rows] == ["no image or video in this folder", *["no such file or directory"] * 2]
    assert not any(row.was_read for row in rows)


def test_below_the_least_confidence_a_face_is_uncertain(model: Path, images: Path) -> None:
    certain = read(images / "a.png", model)[0]
    assert certain.confidence is not None
    at_limit = read(images / "a.png", model, min_confidence=certain.confidence)[0]
    above = read(images / "a.png", model, min_confidence=certain.confidence + 1e-4)[0]
    assert at_limit == certain
    assert above == certain.model_copy(update={"label": UNCERTAIN})


def test_tta_averages_an_image_with_its_mirror_image(model: Path, images: Path) -> None:
    mirror = images / "mirror.png"
    cv2.imwrite(str(mirror), cv2.imread(str(images / "a.png"))[:, ::-1])
    plain = [read(path, model)[0].scores for path in (images / "a.png", mirror)]
    averaged = read(images / "a.png", model, tta=True)[0].scores
    assert averaged == pytest.approx({label: (plain[0][label] + plain[1][label]) / 2 for label in plain[0]}, abs=2e-5)


def test_an_ensemble_averages_its_models(model: Path, images: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    first, second, both = (read(images / "a.png", *each)[0].scores for each in ((model,), (other,), (model, other)))
    assert first != second
    assert both == pytest.approx({label: (first[label] + second[label]) / 2 for label in first}, abs=2e-5)


def test_a_valence_arousal_model_gives_no_label(images: Path, tmp_path: Path) -> None:
    row = read(images / "a.png", make_model(tmp_path / "va", "valence-arousal"))[0]
    assert row.label is row.confidence is row.scores is row.error is None
    assert -1 <= row.valence <= 1
    assert -1 <= row.arousal <= 1


def test_a_model_with_both_heads_gives_both(images: Path, tmp_path: Path) -> None:
    row = read(images / "a.png", make_model(tmp_path / "both", "both"))[0]
    assert row.label in BASIC.labels
    assert row.valence is not None
    assert row.arousal is not None


def test_least_confidence_without_expressions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--min-confidence"):
        reader(make_model(tmp_path / "va", "valence-arousal"), min_confidence=0.5)


# Videos


def test_a_video_has_a_row_for_each_frame_read(model: Path, video: Path) -> None:
    rows = read(video, model)
    assert [row.frame for row in rows] == list(range(12))
    assert [row.seconds for row in rows] == pytest.approx([frame / 12 for frame in range(12)], abs=2e-3)
    assert [row.frame for row in read(video, model, every=5)] == [0, 5, 10]


@pytest.mark.parametrize("kind", ["centred", "exponential"])
def test_smoothing_calms_a_video_and_confidence_follows(model: Path, video: Path, kind: str) -> None:
    def flicker(rows: list[PredictionRow]) -> float:
        return float(np.abs(np.diff([list(row.scores.values()) for row in rows], axis=0)).mean())

    raw, calm = read(video, model), read(video, model, smooth=0.5, smoothing=kind)
    assert flicker(calm) < 0.6 * flicker(raw)
    assert all(row.confidence == max(row.scores.values()) for row in calm)


def test_a_broken_video_costs_its_own_row_only(model: Path, video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    rows = read([str(broken), str(video)], model)
    assert rows[0].error
    assert not rows[0].was_read
    assert len(rows) == 13


# Faces


def test_each_face_of_a_photo_has_a_row_with_its_box(model: Path, shared_data: Path) -> None:
    rows = read(shared_data / "faces/selfie-many-people.jpg", model, **yunet(shared_data))
    assert len(rows) == 6
    assert [row.face for row in rows] == list(range(6))
    assert all(row.box and row.face_score and row.label for row in rows)


def test_an_image_without_a_face_has_a_row_that_says_so(model: Path, images: Path, shared_data: Path) -> None:
    (row,) = read(images / "a.png", model, **yunet(shared_data))
    assert (row.error, row.label, row.was_read) == (NO_FACE, None, True)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3)])
def test_an_image_of_an_odd_shape_costs_its_own_row_only(model: Path, images: Path, shape: tuple[int, ...]) -> None:
    odd = images / "odd.png"
    odd.write_bytes(encode_png(np.zeros(shape, np.uint8)))
    rows = read([str(odd), str(images / "a.png")], model, detector="haar")
    assert rows[0].error
    assert rows[1].was_read
    assert read([str(odd)], model)[0].label


def test_the_two_people_of_a_video_keep_their_numbers(model: Path, shared_data: Path) -> None:
    rows = read(shared_data / "videos/two_people.mp4", model, every=10, smooth=1.0, **yunet(shared_data))
    faces = [row for row in rows if row.face is not None]
    assert {row.frame for row in rows} == set(range(0, 115, 10))
    longest = max(sum(row.face == face for row in faces) for face in {row.face for row in faces})
    assert longest >= 10


def yunet(shared_data: Path) -> dict[str, str]:
    return {"detector": "yunet", "detector_model": str(shared_data / "models/face_detection_yunet_2026may.onnx")}


# Output

ROWS = [
    PredictionRow(
        path="a,b.png", face=0, box=(1, 2, 3, 4), label="anger", confidence=0.7, scores={"anger": 0.7, "fear": 0.3}
    ),
    PredictionRow(path="[red].png", error="empty file"),
]


def test_json_lines_hold_every_key_of_every_row() -> None:
    stream = io.StringIO()
    JsonLines(stream).write(ROWS)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [set(line) for line in lines] == [set(PredictionRow.model_fields)] * 2
    assert [PredictionRow.model_validate(line) for line in lines] == ROWS


def test_csv_has_a_column_for_each_number() -> None:
    stream = io.StringIO()
    Csv(stream, ["anger", "fear"]).write(ROWS)
    lines = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert lines[0]["path"] == "a,b.png"
    assert [lines[0][key] for key in ("left", "top", "width", "height")] == ["1.0", "2.0", "3.0", "4.0"]
    assert (lines[0]["p_anger"], lines[0]["p_fear"], lines[1]["p_fear"]) == ("0.7", "0.3", "")
    assert lines[1]["error"] == "empty file"


def test_the_table_shows_paths_as_they_are_and_only_columns_with_something_in_them() -> None:
    stream = io.StringIO()
    table = RichTable(stream)
    table.write(ROWS)
    table.close()
    assert "[red].png" in stream.getvalue()
    assert "anger 70  fear 30" in stream.getvalue()
    assert "valence" not in stream.getvalue()


@pytest.mark.parametrize(
    ("asked", "out", "chosen"),
    [("auto", None, "jsonl"), ("auto", "x.csv", "csv"), ("auto", "x.jsonl", "jsonl"), ("table", "x.csv", "table")],
)
def test_the_format_follows_the_file(asked: str, out: str | None, chosen: str) -> None:
    assert choose_format(asked, out) == chosen


def test_the_tally_counts_files_faces_and_faults() -> None:
    tally = Tally()
    for row in [*ROWS, PredictionRow(path="c.png", error=NO_FACE)]:
        tally.add([row])
    assert (tally.files, tally.files_read, tally.answers, tally.faceless, tally.faults) == (3, 2, 1, 1, 1)
    assert "empty file" in str(tally)
