"""The classifier from Python: `fer.load_model` and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import numpy as np
from PIL import Image, ImageOps

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.pipeline import BATCH_SIZE, FilePredictor
from fer.classifier.predict.rows import PredictionList
from fer.data.images import decode_untrusted
from fer.errors import BadRow
from fer.faces.options import DetectorName
from fer.registry import DEFAULT_MODEL, resolve_model
from fer.tracking import TrackingOptions

ImageLike = str | Path | bytes | np.ndarray | Image.Image
"""A path, the bytes of an encoded image, RGB pixels (H, W, 3) uint8, or a Pillow image."""


def load_model(
    reference: str | Path = DEFAULT_MODEL,
    *,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    detector: DetectorName = "auto",
    detector_model: str | None = None,
    tta: bool = False,
    storage: str = "runs",
    tracking_uri: str | None = None,
) -> ExpressionClassifier:
    """Load a trained classifier; by default the one that comes with Ferry.

    ``reference`` is the folder of a model or run, the name of a run in ``storage`` or of
    a bundled model, ``models:/NAME@ALIAS``,
    ``models:/NAME/VERSION`` or ``runs:/RUN_ID/model``; registered models are looked up at ``tracking_uri``. The other
    arguments are the options of `fer predict`; with ``detector="none"``, each image is one face. Raises UserError if
    there is no such model, detector or device.

        >>> model = load_model("models:/faces@champion")
        >>> model.labels
        ('anger', 'disgust', 'fear', 'happiness', 'neutral', 'sadness', 'surprise')
    """
    folder = resolve_model(str(reference), TrackingOptions(storage=storage, tracking_uri=tracking_uri))
    options = PredictConfig(
        model=str(reference),
        paths=["."],
        device=device,
        detector=detector,
        detector_model=detector_model,
        tta=tta,
    )
    return ExpressionClassifier(folder, options)


class ExpressionClassifier:
    """A trained classifier in memory. `predict` may be called from several threads."""

    def __init__(self, folder: Path, options: PredictConfig) -> None:
        """Use `load_model`."""
        self.folder = folder
        """The model folder: weights, `model.json` and the model card."""
        self._predictor = FilePredictor([folder], options, Path.cwd())

    @property
    def labels(self) -> tuple[str, ...]:
        """The expressions, in the order of the network's outputs; empty for a model of valence and arousal only."""
        return tuple(self._predictor.labels)

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> PredictionList:
        """Classify one image, or several in batches: one row per face, in the order of the images.

        An image gives a row for each face that was found, with its box. A face crop in which none was found, and every
        image with ``detector="none"``, gives one row with ``whole_image`` set. An image that can't be read, or shows no
        face, gives one row with an ``error``. ``path`` is the file's path, or ``images[N]`` for an image from memory.
        The list has a method ``to_frame`` for pandas.

            >>> for row in model.predict(["happy.jpg", pixels]):
            ...     print(row.path, row.label, row.confidence)
            happy.jpg happiness 0.93
            images[1] neutral 0.58
        """
        single = isinstance(images, str | Path | bytes | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim != 4
        )
        numbered = enumerate(cast(Iterable[ImageLike], [images] if single else images))
        rows = PredictionList(labels=self.labels)
        while batch := list(islice(numbered, BATCH_SIZE)):
            rows.extend(self._predictor.predict_images(self._load(batch)))
        return rows

    def _load(self, batch: list[tuple[int, ImageLike]]) -> Iterator[tuple[str, np.ndarray | str]]:
        names = [str(image) if isinstance(image, str | Path) else f"images[{number}]" for number, image in batch]
        yield from zip(
            names, self._predictor.reader.threads.map(self._pixels, (image for _, image in batch)), strict=True
        )

    def _pixels(self, image: ImageLike) -> np.ndarray | str:
        """RGB pixels (H, W, 3) uint8, or an error message. Raises TypeError for what is not an image."""
        if isinstance(image, str | Path):
            return self._predictor.reader.load_image(str(image))
        if isinstance(image, bytes):
            try:
                return decode_untrusted(image)
            except BadRow as error:
                return str(error)
        if isinstance(image, Image.Image):
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            return image
        shape = f" {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else ""
        raise TypeError(
            f"not an image: {type(image).__name__}{shape}; pass a path, encoded bytes, RGB pixels (H, W, 3) uint8 or "
            "a Pillow image"
        )
