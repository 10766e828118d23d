"""`fer predict`: what a model says of faces in images, folders and videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fer.classifier.predict.options import PredictConfig as Config
from fer.errors import UserError

if TYPE_CHECKING:
    from fer.classifier.predict.reader import PredictionRow


def main(config: Config) -> None:
    from tqdm import tqdm

    from fer.classifier.predict.reader import FileReader, find_files, predict_files
    from fer.classifier.predict.writers import Tally, choose_format, open_writer
    from fer.tracking import resolve_model

    folders = [resolve_model(reference, config) for reference in (config.model, *config.ensemble)]
    paths = find_files(config.paths)
    on_ray = len(paths) > config.ray_above or "RAY_ADDRESS" in os.environ
    # On Ray this reader checks models and options before anything starts; the workers have their own.
    reader = FileReader(folders, config.model_copy(update={"device": "cpu"}) if on_ray else config, Path.cwd())
    answers = _on_ray(config, folders, paths) if on_ray else predict_files(reader, paths)

    tally = Tally()
    with open_writer(choose_format(config.format, config.out), config.out, reader.labels) as writer:
        for rows in tqdm(answers, total=len(paths), unit="file", disable=None):
            writer.write(rows)
            tally.add(rows)

    if not tally.files_read:
        raise UserError(f"nothing could be read; {tally.first_fault}")
    print(f"{tally}; written to {config.out}" if config.out else tally, file=sys.stderr)


def _on_ray(config: Config, folders: list[Path], paths: list[str]) -> Iterator[list[PredictionRow]]:
    from cluster.local import connect
    from fer.classifier.predict.distributed import predict_files_on_ray

    connect(cpus=max(config.workers, 1) + 1)
    return predict_files_on_ray(folders, config, Path.cwd(), paths)


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("predict"))
