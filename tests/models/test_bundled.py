"""The model that comes with Ferry: small, documented, right on faces, and unsure about what is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer.classifier.predictor import Predictor
from fer.data.filesystem import FileTree
from fer.data.images import decode_rgb
from fer.data.sources.ferplus import FerPlusSource
from fer.data.synthetic import write_faces
from fer.registry import BUNDLED, DEFAULT_MODEL, GRAPH, SPEC, WEIGHTS, resolve_model
from fer.tracking import TrackingOptions

FOLDER = BUNDLED / DEFAULT_MODEL
NON_FACES = ("brick", "camera", "clock", "coffee", "coins", "grass", "gravel", "page", "rocket", "text")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor([resolve_model(DEFAULT_MODEL, TrackingOptions())])


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """NASA's portrait of Eileen Collins, who smiles, in scikit-image's copy; cropped to the face."""
    from skimage import data

    return data.astronaut()[40:190, 150:300]


def test_it_fits_into_six_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6_000_000
    assert {file.name for file in FOLDER.iterdir()} == {SPEC, WEIGHTS, GRAPH, "README.md"}


def test_its_card_names_its_files_data_and_figures() -> None:
    card = (FOLDER / "README.md").read_text()
    assert hashlib.sha256((FOLDER / WEIGHTS).read_bytes()).hexdigest() in card
    temperature = json.loads((FOLDER / SPEC).read_text())["temperature"]
    assert f"temperature {temperature:.2f}" in card
    for words in ("FER+", "fer train --config ferry-small", "95% interval", "Out of scope", "Limitations"):
        assert words in card


def test_a_smile_is_happy_and_calibrated(predictor: Predictor, portrait: np.ndarray) -> None:
    probabilities = predictor.predict([portrait]).probabilities
    assert probabilities is not None
    assert predictor.labels[int(probabilities[0].argmax())] == "happy"
    assert probabilities.max() > 0.9


def test_confidence_falls_on_what_is_no_face(predictor: Predictor) -> None:
    from skimage import data

    pictures = [getattr(data, name)() for name in NON_FACES]
    pictures = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2) for picture in pictures]
    random = np.random.default_rng(0)
    crops = []
    for picture in pictures:
        for _ in range(10):
            side = int(random.integers(48, min(picture.shape[:2])))
            top, left = (int(random.integers(0, size - side + 1)) for size in picture.shape[:2])
            crops.append(picture[top : top + side, left : left + side, :3])
    probabilities = predictor.predict(crops).probabilities
    assert probabilities is not None
    confidence = probabilities.max(axis=1)
    assert confidence.mean() < 0.5
    assert (confidence > 0.9).mean() < 0.1


@pytest.mark.slow
def test_it_reads_faces_that_it_was_not_trained_on(predictor: Predictor, shared_data: Path) -> None:
    source = FerPlusSource(FileTree(str(shared_data / "ferplus")))
    rows = [row for row in source.rows() if row.label and row.split == "test"]
    chosen = [rows[index] for index in np.random.default_rng(0).choice(len(rows), 600, replace=False)]
    probabilities = predictor.predict([decode_rgb(row.read()) for row in chosen]).probabilities
    assert probabilities is not None
    true = [predictor.labels.index(source.space.resolve(row.label)) for row in chosen]
    assert (probabilities.argmax(axis=1) == true).mean() > 0.8


def test_the_first_command_answers_without_torch(tmp_path: Path) -> None:
    """Importing PyTorch alone takes longer than the whole command does without it."""
    write_faces(tmp_path / "faces", per_class=1, size=64)
    program = (
        "import sys\n"
        "from jobs.__main__ import main\n"
        f"code = main(['predict', {str(tmp_path / 'faces')!r}, '--detector', 'none'])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'timm', 'matplotlib', 'pandas', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(code or (f'imports {heavy}' if heavy else 0))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}  # the tests' cluster
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7
