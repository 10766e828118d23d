"""The Python API: images in every form, several faces, what can't be read, and a light `import fer`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fer
from fer import ExpressionClassifier, UserError, load_model
from fer.data.images import decode_rgb, encode_png


@pytest.fixture
def model(make_classifier: Callable[..., Path], tmp_path: Path) -> ExpressionClassifier:
    return load_model(make_classifier(tmp_path / "run/model", head="both"), device="cpu", detector="none")


@pytest.fixture
def face(face_folder: Path) -> Path:
    return sorted(face_folder.rglob("*.png"))[0]


def test_an_image_in_every_form(model: ExpressionClassifier, face: Path) -> None:
    pixels = decode_rgb(face.read_bytes())
    forms = [face, str(face), face.read_bytes(), pixels, Image.open(face)]
    rows = model.predict(forms)
    assert [row.path for row in rows] == [str(face), str(face), "images[2]", "images[3]", "images[4]"]
    for row in rows:
        assert row.error is None
        assert row.label in model.labels
        assert row.scores is not None
        assert row.scores == rows[0].scores
        assert sum(row.scores.values()) == pytest.approx(1, abs=1e-3)
        assert row.confidence == max(row.scores.values())
        assert row.valence is not None
        assert -1 <= row.valence <= 1
    for form in forms:
        assert [row.scores for row in model.predict(form)] == [rows[0].scores]


def test_many_images_keep_their_order(model: ExpressionClassifier) -> None:
    random = np.random.default_rng(0)
    batch = random.integers(0, 256, (70, 40, 40, 3), np.uint8)
    together = model.predict(batch)
    assert [row.path for row in together] == [f"images[{n}]" for n in range(70)]
    for number in (0, 31, 32, 69):
        [alone] = model.predict(batch[number])
        assert together[number].scores == pytest.approx(alone.scores, abs=1e-4)
    assert model.predict([]) == []


def test_predictions_as_a_pandas_frame(model: ExpressionClassifier, face: Path) -> None:
    frame = model.predict([face, face]).to_frame()
    assert list(frame.path) == [str(face)] * 2
    assert list(frame.filter(like="p_").columns) == [f"p_{label}" for label in model.labels]
    assert frame.filter(like="p_").sum(axis=1).to_list() == pytest.approx([1, 1], abs=1e-3)


def test_what_cannot_be_read_says_why(model: ExpressionClassifier, face: Path, tmp_path: Path) -> None:
    rows = model.predict([tmp_path / "nowhere.png", b"not an image", face])
    assert [row.error is None for row in rows] == [False, False, True]
    assert [row.label is None for row in rows] == [True, True, False]


def test_a_detector_gives_a_row_for_each_face(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    detecting = load_model(make_classifier(tmp_path / "run/model"), device="cpu", detector="haar")
    [row] = detecting.predict(np.zeros((80, 80, 3), np.uint8))
    assert row.error == "no face found"
    assert row.box is None


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), 7.0]
)
def test_what_is_not_an_image_is_refused(model: ExpressionClassifier, image: object) -> None:
    with pytest.raises(TypeError, match="not an image"):
        model.predict([image])  # type: ignore[list-item]


def test_png_bytes_of_a_grey_image(model: ExpressionClassifier) -> None:
    [row] = model.predict(encode_png(np.full((40, 40), 128, np.uint8)))
    assert row.label in model.labels


def test_a_missing_model_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model"):
        load_model(tmp_path / "nothing")


def test_import_is_light() -> None:
    program = (
        "import sys, fer\n"
        "assert 'load_model' in dir(fer)\n"
        "assert not {'torch', 'ray', 'cv2', 'numpy', 'pydantic'} & set(sys.modules), sorted(sys.modules)\n"
        "from fer import load_model\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_export_is_there() -> None:
    for name in fer.__all__:
        assert getattr(fer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fer.nothing  # noqa: B018
