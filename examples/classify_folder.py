"""Classify the images of a folder from Python, and count the labels.

    python examples/classify_folder.py FOLDER [--model MODEL]

MODEL is the folder of a model or run, or a registered model (models:/NAME@ALIAS); by default it is the model that comes
with Ferry. Without a folder, the script renders faces. The model was trained on photographs, so its labels of rendered
faces are often wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fer import load_model
from fer.data.synthetic import write_faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--model", default="ferry-small")
    options = parser.parse_args()

    model = load_model(options.model)
    frame = model.predict(sorted((options.folder or render_faces()).rglob("*.png"))).to_frame()
    print(frame[["path", "label", "confidence", "error"]].head(10).to_string())
    print(frame["label"].value_counts().to_string())


def render_faces() -> Path:
    folder = Path("runs/example-classify/faces")
    write_faces(folder, per_class=5, seed=1)
    return folder


if __name__ == "__main__":
    main()
