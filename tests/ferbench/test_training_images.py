"""A benchmark's images that a classifier was trained on are found by file name and content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer.classifier.spec import ModelSpec
from fer.data.images import encode_png
from fer.data.record import DataRecord
from fer.data.row_sample import RowSample, row_hash
from fer.data.vqa.questions import ImageRoot
from fer.errors import UserError
from fer.ferbench.collect import ModelResults
from fer.ferbench.training_images import count_training_images, describe_training_images
from fer.models.folder import read_spec
from fer.registry import SPEC


def test_training_images_are_counted_or_refused(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model")
    (tmp_path / "images").mkdir()
    images = [encode_png(np.full((8, 8), value, np.uint8)) for value in range(20)]
    for number, image in enumerate(images):
        (tmp_path / f"images/{number}.png").write_bytes(image)
    paths, root = [f"/SFEW/{number}.png" for number in range(21)], ImageRoot(str(tmp_path / "images"))
    assert count_training_images(folder, paths, root, allowed=False) == 0, "nothing is recorded"

    rows = RowSample(row_hash(f"train/{number}.png", images[number]) for number in range(0, 20, 4))
    record = DataRecord(content_hash="0" * 64, splits=None, train_rows=rows.encode(), val_rows="")
    spec = read_spec(folder, ModelSpec).model_copy(update={"data": record})
    (folder / SPEC).write_text(spec.model_dump_json())
    with pytest.raises(UserError, match=r"trained on images of these questions, such as /SFEW/0\.png"):
        count_training_images(folder, paths, root, allowed=False)
    count = count_training_images(folder, paths, root, allowed=True)
    assert count == 5
    assert count_training_images(folder, paths[1:4], root, allowed=False) == 0

    results = [ModelResults("one", [], {"trained_images": count}), ModelResults("two", [], {})]
    assert describe_training_images(results) == [
        "one was trained on 5 of the images (--allow-training-rows): its metrics are too good."
    ]
