"""A batch of requests to its answers, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.data.images import encode_png
from fer.faces import FaceBox
from fer.labels import likely_compound
from fer.tracking import TrackingOptions
from serve_apps.live_model import LiveModel, Loaded
from serve_apps.options import ServeConfig
from serve_apps.schema import Prediction, Unreadable
from serve_apps.scoring import answer, find_detector

CONFIG = ServeConfig(model="unused", max_pixels=100_000)


@pytest.fixture
def loaded(make_model: Callable[..., Path], tmp_path: Path) -> Loaded:
    return LiveModel(str(make_model(tmp_path / "run" / "model")), TrackingOptions(), "cpu").current


def picture(seed: int, side: int = 40) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def faces_of(answered: Prediction | Unreadable) -> list:
    assert isinstance(answered, Prediction)
    return [image.faces for image in answered.images]


def test_a_bad_image_costs_its_own_request_only(loaded: Loaded) -> None:
    first, bad, last = answer([[picture(1), picture(2)], [picture(3), b"no"], [picture(4)]], loaded, None, CONFIG)
    assert bad == Unreadable(reason="image 1: not an image that can be decoded")
    alone = answer([[picture(1), picture(2)], [picture(4)]], loaded, None, CONFIG)
    for batched, expected in zip((first, last), alone, strict=True):
        for (face,), (same,) in zip(faces_of(batched), faces_of(expected), strict=True):
            assert face.scores == pytest.approx(same.scores, abs=1e-6)


def test_scores_are_those_of_the_predictor_on_the_whole_image(loaded: Loaded) -> None:
    data = picture(5, side=90)
    ((face,),) = faces_of(answer([[data]], loaded, None, CONFIG)[0])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = loaded.predictor.predict([image]).probabilities
    assert expected is not None
    np.testing.assert_allclose(list(face.scores.values()), expected[0], atol=1e-6)


def test_compound_labels_are_given_where_they_are_asked_for(loaded: Loaded) -> None:
    asked = CONFIG.model_copy(update={"compound": True})
    faces = [face for seed in range(8) for (face,) in faces_of(answer([[picture(seed)]], loaded, None, asked)[0])]
    assert [face.compound for face in faces] == [likely_compound(face.scores) for face in faces]
    ((plain,),) = faces_of(answer([[picture(0)]], loaded, None, CONFIG)[0])
    assert plain.compound is None


def test_each_detected_face_is_answered_with_its_box(loaded: Loaded) -> None:
    class Two:
        def detect(self, image: np.ndarray) -> list[FaceBox]:
            return [FaceBox(1.4, 2.0, 10.0, 12.0, 0.9), FaceBox(20.0, 20.0, 8.0, 8.0, None)]

    ((left, right),) = faces_of(answer([[picture(6)]], loaded, Two(), CONFIG)[0])
    assert left.box.model_dump() == {"x": 1, "y": 2, "w": 10, "h": 12}
    assert (left.detection_confidence, right.detection_confidence) == (0.9, None)


def test_an_image_without_a_face_has_none(loaded: Loaded) -> None:
    detector = find_detector(ServeConfig(model="unused", detector="haar"))
    grey = encode_png(np.full((64, 64, 3), 128, np.uint8))
    assert faces_of(answer([[grey]], loaded, detector, CONFIG)[0]) == [[]]


@pytest.mark.parametrize(("head", "has_label"), [("valence-arousal", False), ("both", True)])
def test_valence_and_arousal(make_model: Callable[..., Path], tmp_path: Path, head: str, has_label: bool) -> None:
    loaded = LiveModel(str(make_model(tmp_path / "m", head)), TrackingOptions(), "cpu").current
    ((face,),) = faces_of(answer([[picture(7)]], loaded, None, CONFIG)[0])
    assert -1 <= face.valence <= 1
    assert -1 <= face.arousal <= 1
    assert (face.label is not None) is (face.scores is not None) is has_label
    assert bool(loaded.info.labels) is has_label


def test_faces_below_the_confidence_are_uncertain(loaded: Loaded) -> None:
    for limit, uncertain in ((0.0, False), (1.0, True)):
        config = ServeConfig(model="unused", min_confidence=limit)
        ((face,),) = faces_of(answer([[picture(8)]], loaded, None, config)[0])
        assert face.uncertain is uncertain
