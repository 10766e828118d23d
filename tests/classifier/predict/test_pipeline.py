"""From files to prediction rows: images, folders, videos, errors and ensembles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.pipeline import FilePredictor, predict_files
from fer.classifier.predict.reader import find_files
from fer.classifier.predict.rows import NO_FACE, UNCERTAIN, PredictionRow
from fer.data.images import encode_png
from fer.errors import UserError
from fer.labels import get_space, likely_compound

BASIC = get_space("basic")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def model(make_classifier: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("model"), "basic")


def load(*models: Path, **options: object) -> FilePredictor:
    config = PredictConfig.model_validate(
        {"model": "M", "paths": ["x"], "device": "cpu", "detector": "none", **options}
    )
    return FilePredictor(models, config, Path.cwd())


def predict(path: Path | list[str], *models: Path, **options: object) -> list[PredictionRow]:
    paths = path if isinstance(path, list) else find_files([str(path)])
    return [row for rows in predict_files(load(*models, **options), paths) for row in rows]


def test_each_image_has_a_label_a_confidence_and_the_full_distribution(model: Path, images: Path) -> None:
    row = predict(images / "a.png", model)[0]
    assert row.scores is not None
    assert list(row.scores) == list(BASIC.labels)
    assert sum(row.scores.values()) == pytest.approx(1, abs=1e-4)
    assert row.label == max(row.scores, key=row.scores.__getitem__)
    assert row.confidence == row.scores[row.label]
    assert (row.face, row.box, row.whole_image) == (0, (0, 0, 36, 40), True)
    assert row.face_score is row.valence is row.error is None


def test_compound_labels_are_those_of_the_two_most_probable_expressions(model: Path, images: Path) -> None:
    rows = [row for row in predict(images, model, compound=True) if row.scores]
    assert [row.compound for row in rows] == [likely_compound(row.scores) for row in rows]
    assert all(row.compound is None for row in predict(images, model))


def test_compound_labels_need_an_expression_head(make_classifier: Make, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--compound"):
        predict(images / "a.png", make_classifier(tmp_path / "va", "basic", head="valence-arousal"), compound=True)


def test_an_unreadable_file_is_one_row_with_an_error(model: Path, images: Path) -> None:
    rows = {Path(row.path).name: row for row in predict(images, model)}
    assert rows["broken.png"].error == "truncated or damaged image"
    assert rows["empty.jpg"].error == "empty file"
    assert [name for name, row in rows.items() if row.error is None] == ["a.png", "b.png", "c.PNG", "d.png"]


def test_each_file_is_decoded_once(model: Path, images: Path, count_decodes: Callable[[], int]) -> None:
    predict([str(images / name) for name in ("a.png", "b.png")], model)
    assert count_decodes() == 2


def test_missing_paths_are_rows_with_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    rows = predict(find_files([str(tmp_path / "empty"), str(tmp_path / "missing.png"), str(tmp_path / "*.bmp")]), model)
    assert [row.error for row in rows] == ["no image or video in this folder", *["no such file or directory"] * 2]
    assert not any(row.is_readable for row in rows)


def test_a_face_below_min_confidence_is_uncertain(model: Path, images: Path) -> None:
    certain = predict(images / "a.png", model)[0]
    assert certain.confidence is not None
    at_limit = predict(images / "a.png", model, min_confidence=certain.confidence)[0]
    above = predict(images / "a.png", model, min_confidence=certain.confidence + 1e-4)[0]
    assert at_limit == certain
    assert above == certain.model_copy(update={"label": UNCERTAIN})


def test_tta_averages_an_image_with_its_mirror_image(model: Path, images: Path) -> None:
    mirror = images / "mirror.png"
    cv2.imwrite(str(mirror), cv2.imread(str(images / "a.png"))[:, ::-1])
    plain = [predict(path, model)[0].scores for path in (images / "a.png", mirror)]
    averaged = predict(images / "a.png", model, tta=True)[0].scores
    assert averaged == pytest.approx({label: (plain[0][label] + plain[1][label]) / 2 for label in plain[0]}, abs=2e-5)


def test_an_ensemble_averages_its_models(make_classifier: Make, model: Path, images: Path, tmp_path: Path) -> None:
    other = make_classifier(tmp_path / "other", "basic", seed=1)
    first, second, both = (predict(images / "a.png", *each)[0].scores for each in ((model,), (other,), (model, other)))
    assert first != second
    assert both == pytest.approx({label: (first[label] + second[label]) / 2 for label in first}, abs=2e-5)


def test_a_valence_arousal_model_gives_no_label(make_classifier: Make, images: Path, tmp_path: Path) -> None:
    row = predict(images / "a.png", make_classifier(tmp_path / "va", "basic", head="valence-arousal"))[0]
    assert row.label is row.confidence is row.scores is row.error is None
    assert -1 <= row.valence <= 1
    assert -1 <= row.arousal <= 1


def test_a_model_with_both_heads_gives_both(make_classifier: Make, images: Path, tmp_path: Path) -> None:
    row = predict(images / "a.png", make_classifier(tmp_path / "both", "basic", head="both"))[0]
    assert row.label in BASIC.labels
    assert row.valence is not None
    assert row.arousal is not None


def test_min_confidence_needs_an_expression_head(make_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--min-confidence"):
        load(make_classifier(tmp_path / "va", "basic", head="valence-arousal"), min_confidence=0.5)


# Videos


def test_a_video_has_a_row_for_each_frame_of_the_stride(model: Path, video: Path) -> None:
    rows = predict(video, model)
    assert [row.frame for row in rows] == list(range(12))
    assert [row.seconds for row in rows] == pytest.approx([frame / 12 for frame in range(12)], abs=2e-3)
    assert [row.frame for row in predict(video, model, frame_stride=5)] == [0, 5, 10]


@pytest.mark.parametrize("kind", ["centred", "exponential"])
def test_smoothing_reduces_flicker_and_updates_confidence(model: Path, video: Path, kind: str) -> None:
    def flicker(rows: list[PredictionRow]) -> float:
        return float(np.abs(np.diff([list(row.scores.values()) for row in rows], axis=0)).mean())

    raw, calm = predict(video, model), predict(video, model, smooth=0.5, smoothing=kind)
    assert flicker(calm) < 0.6 * flicker(raw)
    assert all(row.confidence == max(row.scores.values()) for row in calm)


def test_an_unreadable_video_is_one_row_with_an_error(model: Path, video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    rows = predict([str(broken), str(video)], model)
    assert rows[0].error
    assert not rows[0].is_readable
    assert len(rows) == 13


# Faces


def test_each_face_of_a_photo_has_a_row_with_its_box(model: Path, shared_data: Path) -> None:
    rows = predict(shared_data / "faces/selfie-many-people.jpg", model, **yunet(shared_data))
    assert len(rows) == 6
    assert [row.face for row in rows] == list(range(6))
    assert all(row.box and row.face_score and row.label for row in rows)


def test_an_image_without_a_face_is_a_row_with_an_error(model: Path, images: Path, shared_data: Path) -> None:
    (images / "large.png").write_bytes(encode_png(cv2.resize(cv2.imread(str(images / "a.png")), None, fx=8, fy=8)))
    (row,) = predict(images / "large.png", model, **yunet(shared_data))
    assert (row.error, row.label, row.is_readable, row.whole_image) == (NO_FACE, None, True, False)


def test_a_face_crop_without_a_detected_face_is_taken_whole(model: Path, face_folder: Path) -> None:
    paths = [str(path) for path in sorted(face_folder.rglob("*.png"))[::4]]
    whole = dict(zip(paths, predict(paths, model), strict=True))
    fallbacks = [row for row in predict(paths, model, detector="haar") if row.whole_image]
    assert len(fallbacks) > 1
    for row in fallbacks:
        assert row.scores == pytest.approx(whole[row.path].scores, abs=2e-5)
        assert row.box == whole[row.path].box == (0, 0, 48, 48)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3)])
def test_an_image_of_an_unsupported_shape_is_one_row_with_an_error(
    model: Path, images: Path, shape: tuple[int, ...]
) -> None:
    odd = images / "odd.png"
    odd.write_bytes(encode_png(np.zeros(shape, np.uint8)))
    rows = predict([str(odd), str(images / "a.png")], model, detector="haar")
    assert rows[0].error
    assert rows[1].is_readable
    assert predict([str(odd)], model)[0].label


def test_the_two_people_of_a_video_keep_their_tracks(model: Path, shared_data: Path) -> None:
    rows = predict(shared_data / "videos/two_people.mp4", model, frame_stride=10, smooth=1.0, **yunet(shared_data))
    faces = [row for row in rows if row.face is not None]
    assert {row.frame for row in rows} == set(range(0, 115, 10))
    longest = max(sum(row.face == face for row in faces) for face in {row.face for row in faces})
    assert longest >= 10


def yunet(shared_data: Path) -> dict[str, str]:
    return {"detector": "yunet", "detector_model": str(shared_data / "models/face_detection_yunet_2026may.onnx")}
