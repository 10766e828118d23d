"""`fer predict`: predict expressions in images, folders and videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fer.classifier.predict.options import PredictConfig as Config
from fer.errors import UserError

if TYPE_CHECKING:
    from fer.classifier.predict.drawing.drawer import Drawer
    from fer.classifier.predict.pipeline import FilePredictor
    from fer.classifier.predict.rows import PredictionRow


def main(config: Config) -> None:
    """Predict for every file of ``config.paths``, and write the rows."""
    from tqdm import tqdm

    from fer.classifier.predict.pipeline import FilePredictor, predict_files, shared_preprocessing
    from fer.classifier.predict.reader import find_files
    from fer.classifier.predict.rows import PredictionSummary
    from fer.classifier.predict.writers import choose_format, open_writer
    from fer.classifier.spec import ModelSpec
    from fer.faces.detectors import HAAR_HINT, choose_detector
    from fer.faces.find import as_in_training
    from fer.models.folder import read_spec
    from fer.registry import locate_model
    from fer.storage import fetch_folder, writable_folder

    models = [locate_model(reference, config) for reference in (config.model, *config.ensemble)]
    folders = [fetch_folder(model) for model in models]
    preprocessing = shared_preprocessing([read_spec(folder, ModelSpec) for folder in folders])
    asked, config = config, choose_detector(as_in_training(config, preprocessing))
    paths = find_files(config.paths)
    on_ray = len(paths) > config.ray_above or "RAY_ADDRESS" in os.environ
    # With Ray, this predictor validates models and options before anything starts, and explains; workers load theirs.
    predictor = FilePredictor(folders, config.model_copy(update={"device": "cpu"}) if on_ray else config, Path.cwd())
    results = _predict_on_ray(config, models, paths) if on_ray else predict_files(predictor, paths)

    summary = PredictionSummary()
    with ExitStack() as stack:
        folder = stack.enter_context(writable_folder(config.draw)) if config.draw else None
        drawer = _open_drawer(predictor, paths, folder) if folder else None
        file_format = choose_format(config.format, config.out)
        writer = stack.enter_context(open_writer(file_format, config.out, predictor.labels))
        for rows in tqdm(results, total=len(paths), unit="file", disable=None):
            writer.write(rows)
            summary.add(rows)
            if drawer:
                drawer.draw(rows)
        if drawer:
            drawer.finish()

    if not summary.readable_files:
        raise UserError(f"no file could be read; {summary.first_error}")
    outputs = [output for output in (config.out, config.draw) if output]
    print("; written to ".join([str(summary), *([" and ".join(outputs)] if outputs else [])]), file=sys.stderr)
    if config.detector == "haar" != asked.detector:
        print(HAAR_HINT, file=sys.stderr)


def _predict_on_ray(config: Config, models: list[str], paths: list[str]) -> Iterator[list[PredictionRow]]:
    from cluster.local import connect
    from fer.classifier.predict.distributed import predict_files_on_ray

    connect(cpus=max(config.workers, 1) + 1)
    return predict_files_on_ray(models, config, Path.cwd(), paths)


def _open_drawer(predictor: FilePredictor, paths: list[str], folder: Path) -> Drawer:
    from fer.classifier.predict.drawing.drawer import Drawer

    return Drawer(predictor, paths, folder)


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("predict"))
