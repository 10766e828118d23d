"""Images of a benchmark that a classifier was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fer.classifier.spec import ModelSpec
from fer.data.row_sample import RowSample, row_hash
from fer.data.stream.prefetch import prefetch, read_verified
from fer.data.vqa.questions import ImageRoot
from fer.errors import BadRow, UserError
from fer.ferbench.collect import ModelResults
from fer.models.folder import read_spec


def count_training_images(folder: Path, paths: Sequence[str], images: ImageRoot, allowed: bool) -> int:
    """How many of the images at ``paths`` the classifier was trained on, as far as its folder says it.

    Of large training data, an estimate. Raises UserError at the first one, unless ``allowed``.
    """
    record = read_spec(folder, ModelSpec).data
    trained = RowSample.decode(record.train_rows if record else "")

    def load(path: str) -> bytes | BadRow:
        return read_verified(partial(images.read, path), verify=len)

    found = 0
    for path, image in prefetch(load, paths if record else ()):
        if isinstance(image, BadRow) or row_hash(path, image) not in trained:
            continue
        found += 1
        if not allowed:
            raise UserError(
                f"the model was trained on images of these questions, such as {path}: make questions of another split, "
                "or allow it with --allow-training-rows"
            )
    return round(found / trained.rate)


def describe_training_images(results: Sequence[ModelResults]) -> list[str]:
    """A sentence for each model that was trained on some of the images."""
    return [
        f"{model.name} was trained on {count:,} of the images (--allow-training-rows): its metrics are too good."
        for model in results
        if (count := model.record.get("trained_images"))
    ]
