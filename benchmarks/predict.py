"""Photographs and video frames per second of `fer predict`, beside the package `fer` of JustinShenk on PyPI.

    python -m benchmarks.predict --photos FOLDER --video film.mp4 --peer-python /tmp/peer/bin/python

Both sides find the faces with OpenCV's Haar cascade and classify each, in turns, in a process of their own that imports
and loads its model first: the time is that of the work. The peer (`pip install fer tensorflow`) needs an environment of
its own, because it is imported under the same name. Start-up is measured apart, from command to result.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import Field

from fer.options import Options, parse


class PredictBenchmark(Options):
    """Compare the speed of prediction with another package's."""

    photos: str = Field(description="Folder of photographs")
    video: str = Field(description="Video")
    peer_python: str | None = Field(None, description="Python of an environment with the package `fer`; unset: no peer")
    detector: str = Field("haar", description="Ferry's face detector")
    rounds: int = Field(3, ge=1, description="Rounds; both sides take turns")


FERRY = """
import sys, time
from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.pipeline import FilePredictor, predict_files
from fer.classifier.predict.reader import find_files
from fer.registry import DEFAULT_MODEL, resolve_model
from fer.tracking import TrackingOptions
from pathlib import Path
paths, detector = sys.argv[1:]
config = PredictConfig(paths=[paths], detector=detector)
predictor = FilePredictor([resolve_model(DEFAULT_MODEL, TrackingOptions())], config, Path.cwd())
started = time.perf_counter()
rows = [row for rows in predict_files(predictor, find_files([paths])) for row in rows]
seconds = time.perf_counter() - started
images = len({(row.path, row.frame) for row in rows})
"""

PEER = """
import pathlib, sys, time
import cv2
from fer.fer import FER
path = pathlib.Path(sys.argv[1])
detector = FER(mtcnn=False)
def images():
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield cv2.imread(str(file))
    else:
        video = cv2.VideoCapture(str(path))
        while (frame := video.read())[0]:
            yield frame[1]
rows, images_seen = [], 0
started = time.perf_counter()
for image in images():
    images_seen += 1
    rows += detector.detect_emotions(image)
seconds = time.perf_counter() - started
images = images_seen
"""

REPORT = "\nimport json; print(json.dumps({'images': images, 'seconds': seconds, 'faces': len(rows)}))"


def main(config: PredictBenchmark) -> None:
    sides = {"Ferry": (sys.executable, FERRY)}
    if config.peer_python:
        sides["fer (PyPI)"] = (config.peer_python, PEER)
    for title, path in (("photographs", config.photos), ("video frames", config.video)):
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(config.rounds):
            for name, (python, program) in sides.items():
                result = run(python, program + REPORT, str(Path(path).absolute()), config.detector)
                rates[name].append(result["images"] / result["seconds"])
                print(f"{name:<12}{title}: {result['images']} with {result['faces']} faces, {rates[name][-1]:.1f}/s")
        medians = {name: statistics.median(values) for name, values in rates.items()}
        print(f"{title}: " + ", ".join(f"{name} {rate:.1f}/s" for name, rate in medians.items()))
        if len(medians) == 2:
            print(f"ratio {medians['Ferry'] / medians['fer (PyPI)']:.2f}")
    photo = str(sorted(Path(config.photos).iterdir())[0])
    times = [command_seconds([sys.executable, "-m", "jobs", "predict", photo]) for _ in range(config.rounds + 2)]
    print(f"start-up: `fer predict` of one photograph, {statistics.median(times):.2f} s (median of {len(times)})")


def run(python: str, program: str, *arguments: str) -> dict[str, float]:
    """The last line that a program prints, as JSON."""
    with tempfile.TemporaryDirectory() as folder:  # the checkout's package would hide the peer's
        command = [python, "-c", program, *arguments]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def command_seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(parse(PredictBenchmark, sys.argv[1:], "predict benchmark"))
