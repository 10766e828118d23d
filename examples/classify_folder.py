"""Classify the images of a folder from Python, and count the labels.

    python examples/classify_folder.py FOLDER --model MODEL [--detector haar]

MODEL is the folder of a model or run, or a registered model (models:/NAME@ALIAS). Without arguments, the script renders
faces, trains a small classifier on them, and classifies faces of other people: about half a minute.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from fer import load_model

OUT = Path("runs/example-classify")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--detector", default="none", choices=["none", "haar", "yunet"])
    options = parser.parse_args()

    model = load_model(options.model or train_small_model(), detector=options.detector)
    rows = model.predict(sorted((options.folder or render_faces()).rglob("*.png")))
    for row in rows[:10]:
        print(f"{row.path:<50} {row.error or f'{row.label} ({row.confidence:.0%})'}")
    labels = Counter(row.label for row in rows if row.error is None)
    print(f"{len(rows)} faces:", ", ".join(f"{count} {label}" for label, count in labels.most_common()))


def render_faces() -> Path:
    from fer.data.synthetic import write_faces

    write_faces(OUT / "new-faces", per_class=5, seed=1)
    return OUT / "new-faces"


def train_small_model() -> Path:
    from fer.data.synthetic import write_faces
    from jobs import train

    write_faces(OUT / "faces", per_class=60)
    network = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}
    train.main(
        train.Config(
            data=str(OUT / "faces"), out_dir=str(OUT), name="small", backbone="resnet18", model_kwargs=network,
            img_size=48, epochs=3, batch_size=16, lr=2e-3,
        )
    )  # fmt: skip
    return OUT / "small"


if __name__ == "__main__":
    main()
