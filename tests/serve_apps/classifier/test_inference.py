"""A batch of requests to its responses, without a server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fer.data.images import decode_rgb, encode_png
from fer.errors import UserError
from fer.faces.box import FaceBox
from fer.faces.detectors import FaceDetector, HaarDetector, WholeImageDetector
from fer.faces.options import Preprocessing
from fer.labels import likely_compound
from serve_apps.classifier.inference import LoadedClassifier, cut_as_in_training, load_classifier, predict_requests
from serve_apps.options import ServeConfig
from serve_apps.schema import InvalidInput, PredictResponse

CONFIG = ServeConfig(model="unused", max_pixels=100_000)
WHOLE_IMAGES = WholeImageDetector()


@pytest.fixture
def model(make_classifier: Callable[..., Path], tmp_path: Path) -> LoadedClassifier:
    return load_classifier(make_classifier(tmp_path / "model", "basic"), "tiny", "1", CONFIG)


def picture(seed: int, side: int = 40) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def faces_of(response: PredictResponse | InvalidInput) -> list:
    """The faces of each image."""
    assert isinstance(response, PredictResponse)
    return [image.faces for image in response.images]


def predict(
    image: bytes, model: LoadedClassifier, detector: FaceDetector = WHOLE_IMAGES, config: ServeConfig = CONFIG
) -> list:
    """The faces of one image."""
    (response,) = predict_requests([[image]], model, detector, config)
    return faces_of(response)[0]


def test_an_invalid_image_fails_its_own_request_only(model: LoadedClassifier) -> None:
    requests = [[picture(1), picture(2)], [picture(3), b"no"], [picture(4)]]
    first, bad, last = predict_requests(requests, model, WHOLE_IMAGES, CONFIG)
    assert bad == InvalidInput(reason="image 1: not an image of a supported format")
    alone = predict_requests([[picture(1), picture(2)], [picture(4)]], model, WHOLE_IMAGES, CONFIG)
    for batched, expected in zip((first, last), alone, strict=True):
        for (face,), (same,) in zip(faces_of(batched), faces_of(expected), strict=True):
            assert face.scores == pytest.approx(same.scores, abs=1e-6)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_face_is_decoded_small_and_its_box_is_that_of_the_upright_image(
    model: LoadedClassifier, orientation: int
) -> None:
    image = Image.linear_gradient("L").resize((301, 401))
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    (face,) = predict(file.getvalue(), model, config=CONFIG.model_copy(update={"max_pixels": 1_000_000}))
    assert (face.box.w, face.box.h) == ((301, 401) if orientation == 1 else (401, 301))
    assert face.whole_image
    whole = model.predictor.predict([decode_rgb(file.getvalue())]).probabilities
    assert whole is not None
    assert list(face.scores.values()) == pytest.approx(whole[0].tolist(), abs=0.02)


def test_a_truncated_image_is_named_in_the_reason(model: LoadedClassifier) -> None:
    (response,) = predict_requests([[picture(1), picture(2)[:-100]]], model, WHOLE_IMAGES, CONFIG)
    assert response == InvalidInput(reason="image 1: truncated or damaged image")


def test_each_image_of_a_request_is_decoded_once(model: LoadedClassifier, count_decodes: Callable[[], int]) -> None:
    predict_requests([[picture(1), picture(2)], [picture(3)]], model, WHOLE_IMAGES, CONFIG)
    assert count_decodes() == 3


def test_scores_are_those_of_the_predictor_on_the_whole_image(model: LoadedClassifier) -> None:
    data = picture(5, side=90)
    (face,) = predict(data, model)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = model.predictor.predict([image]).probabilities
    assert expected is not None
    np.testing.assert_allclose(list(face.scores.values()), expected[0], atol=1e-6)


def test_compound_labels_are_returned_on_request(model: LoadedClassifier) -> None:
    config = CONFIG.model_copy(update={"compound": True})
    faces = [face for seed in range(8) for face in predict(picture(seed), model, config=config)]
    assert [face.compound for face in faces] == [likely_compound(face.scores) for face in faces]
    (plain,) = predict(picture(0), model)
    assert plain.compound is None


def test_each_detected_face_is_returned_with_its_box(model: LoadedClassifier) -> None:
    class TwoFaces:
        def detect(self, image: np.ndarray) -> list[FaceBox]:
            return [FaceBox(1.4, 2.0, 10.0, 12.0, 0.9), FaceBox(20.0, 20.0, 8.0, 8.0, None)]

        def resembles_face(self, image: np.ndarray) -> bool:
            raise AssertionError("faces were found")

    left, right = predict(picture(6), model, TwoFaces())
    assert left.box.model_dump() == {"x": 1, "y": 2, "w": 10, "h": 12}
    assert (left.detection_confidence, right.detection_confidence) == (0.9, None)
    assert not left.whole_image


def test_an_image_without_a_face_has_none(model: LoadedClassifier) -> None:
    grey = encode_png(np.full((64, 64, 3), 128, np.uint8))
    assert predict(grey, model, HaarDetector()) == []


def test_a_face_crop_without_a_detected_face_is_taken_whole(model: LoadedClassifier) -> None:
    class NoFace:
        def detect(self, image: np.ndarray) -> list[FaceBox]:
            return []

        def resembles_face(self, image: np.ndarray) -> bool:
            return True

    (face,) = predict(picture(9, side=64), model, NoFace())
    assert face.whole_image
    assert face.detection_confidence is None
    assert face.box.model_dump() == {"x": 0, "y": 0, "w": 64, "h": 64}
    assert face.scores == pytest.approx(predict(picture(9, side=64), model)[0].scores)
    assert predict(picture(9, side=140), model, NoFace()) == []


@pytest.mark.parametrize(("head", "has_label"), [("valence-arousal", False), ("both", True)])
def test_valence_and_arousal(make_classifier: Callable[..., Path], tmp_path: Path, head: str, has_label: bool) -> None:
    model = load_classifier(make_classifier(tmp_path / "model", "basic", head=head), "tiny", "1", CONFIG)
    (face,) = predict(picture(7), model)
    assert -1 <= face.valence <= 1
    assert -1 <= face.arousal <= 1
    assert (face.label is not None) is (face.scores is not None) is has_label
    assert bool(model.info.labels) is has_label


def test_faces_below_the_confidence_are_uncertain(model: LoadedClassifier) -> None:
    for limit, uncertain in ((0.0, False), (1.0, True)):
        config = ServeConfig(model="unused", min_confidence=limit)
        (face,) = predict(picture(8), model, config=config)
        assert face.uncertain is uncertain


def test_faces_are_cut_out_as_in_training(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", "basic")
    spec = json.loads((folder / "model.json").read_text())
    spec["preprocessing"] = Preprocessing(detector="haar", margin=0.3, align=False).model_dump()
    (folder / "model.json").write_text(json.dumps(spec))
    config = cut_as_in_training(ServeConfig(model=str(folder), device="cpu"))
    assert (config.detector, config.margin, config.align) == ("haar", 0.3, False)
    load_classifier(folder, "tiny", "2", config)
    with pytest.raises(UserError, match="tiny, version 2, was trained on faces that were cut out in another way"):
        load_classifier(folder, "tiny", "2", ServeConfig(model="first", device="cpu"))
