"""Run FERBench on a model of your own: anything that responds to a prompt about an image.

    python examples/custom_ferbench_model.py [QUESTIONS.json IMAGE_ROOT]

The model here is a linear classifier of image gradients, fitted to rendered faces. Without arguments, the script makes
questions about rendered faces. A model behind an OpenAI-compatible endpoint needs no code: `fer ferbench run --help`.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import RidgeClassifier

from fer.data.images import decode_rgb
from fer.data.synthetic import write_faces
from fer.data.vqa.questions import ImageRoot, parse_question, read_objects
from fer.ferbench.options import FerbenchScoreConfig
from fer.inference.base import InferenceClient, Request, Response, SamplingParams
from jobs import ferbench, questions

OUT = Path("runs/example-ferbench")


class GradientModel(InferenceClient):
    """Histograms of gradients and a ridge classifier, fitted to a folder of classes."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*/*.png"))
        self.hog = cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9)
        self.classifier = RidgeClassifier(alpha=10)
        self.classifier.fit([self._features(file.read_bytes()) for file in files], [file.parent.name for file in files])

    def stream(self, pending: deque[tuple[int, Request]], sampling: SamplingParams) -> Iterator[tuple[int, Response]]:
        """The image is all that this model looks at; others get the prompt and the candidate labels too."""
        while pending:
            number, request = pending.popleft()
            [label] = self.classifier.predict([self._features(request.image)])
            yield number, Response(f"<answer>{label}</answer>")

    def _features(self, image: bytes) -> np.ndarray:
        grey = cv2.cvtColor(decode_rgb(image), cv2.COLOR_RGB2GRAY)
        return np.ravel(self.hog.compute(cv2.resize(grey, (48, 48))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="?")
    parser.add_argument("image_root", nargs="?")
    options = parser.parse_args()
    file, root = (options.questions, options.image_root) if options.questions else make_questions()

    write_faces(OUT / "training", per_class=60, size=48, seed=0)
    model, images = GradientModel(OUT / "training"), ImageRoot(root)
    rows = [row for row in read_objects(file) if isinstance(row, dict)]
    asked = [parse_question(row) for row in rows]
    requests = [
        Request(images.read(each.path), each.turns[0].prompt, labels=each.candidate_labels) for each in asked
    ]  # every image in memory: for many, take them in batches
    responses = model(requests, SamplingParams(temperature=0, max_new_tokens=64))

    results = [{**row, "model_response": text} for row, text in zip(rows, responses, strict=True)]
    (OUT / "gradient-model.json").write_text(json.dumps(results))
    ferbench.score(FerbenchScoreConfig(results=[str(OUT / "gradient-model.json")]))


def make_questions() -> tuple[str, str]:
    """A file of FERBench questions about rendered faces, and the folder of the images."""
    write_faces(OUT / "faces", per_class=10, size=48, seed=1)
    questions.main(
        questions.Config(data=str(OUT / "faces"), out=str(OUT / "questions.jsonl"), kind="ferbench", split="all")
    )
    return str(OUT / "questions.jsonl"), str(OUT / "faces")


if __name__ == "__main__":
    main()
