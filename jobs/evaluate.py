"""`fer evaluate`: evaluate a model on a labelled data set, with intervals, plots and a report."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fer.classifier.evaluate.options import EvaluateConfig

if TYPE_CHECKING:
    from fer.classifier.evaluate.evaluator import Evaluation

Config = EvaluateConfig
SETTINGS = {"filter", "tta", "seed", "label_space", "val_split", "test_split", "split_seed", "allow_training_rows"}
SETTINGS |= {"groups", "metadata", "min_confidence"}

UNNAMEABLE = r"[^\w.]+"
"""Characters that the names of output folders do not have."""


def main(config: EvaluateConfig) -> None:
    """Evaluate ``config.model`` on ``config.data``, print the metrics, and write them with a report."""
    import tempfile
    from functools import partial

    import rich

    from fer.classifier.evaluate.attributes import read_attributes
    from fer.classifier.evaluate.evaluator import default_split, evaluate
    from fer.classifier.evaluate.results import EvaluationSetup, PredictionsFile, find_history, write_results
    from fer.classifier.evaluate.summary import console_tables, describe_coverage
    from fer.classifier.predictor import Predictor
    from fer.classifier.spec import ModelSpec
    from fer.data.prepare import open_dataset
    from fer.data.training_data import split_as_trained
    from fer.models.folder import read_spec
    from fer.registry import locate_model
    from fer.storage import fetch_folder, writable_folder

    location = locate_model(config.model, config)
    folder = fetch_folder(location)
    spec = read_spec(folder, ModelSpec)
    config = split_as_trained(config, spec.data)
    model = config.device, config.tta, config.batch_size
    run: Callable[..., Evaluation]
    if on_cluster():
        from cluster.local import connect
        from fer.classifier.evaluate.distributed import evaluate_on_ray

        connect(cpus=1)
        run = partial(evaluate_on_ray, location, *model)
    else:
        run = partial(evaluate, Predictor([folder], *model))
    attributes = read_attributes(config.metadata, config.groups) if config.metadata else None
    dataset = open_dataset(config, cache=f"{config.storage}/data")
    split = config.split or default_split(dataset)
    with (
        tempfile.TemporaryDirectory() as scratch,
        PredictionsFile(Path(scratch) / "predictions.csv", config.min_confidence) as predictions,
    ):
        evaluation = run(
            dataset,
            split,
            config.filter,
            seed=config.seed,
            max_bad_fraction=config.max_bad_fraction,
            allow_training_rows=config.allow_training_rows,
            attributes=attributes,
            min_confidence=config.min_confidence,
            sink=predictions.write,
        )
        predictions.close()
        history = find_history(location, spec, config.storage)
        settings = config.model_dump(include=SETTINGS) | {"device": evaluation.device}
        setup = EvaluationSetup(config.model, folder, spec, config.data, dataset, settings, history)
        out = output_folder(config, location, split)
        with writable_folder(out) as results:
            report = write_results(evaluation, setup, predictions.path, results, config.thumbnails)

    print(" ".join(describe_coverage(evaluation)), end="\n\n")
    rich.print(console_tables(evaluation))
    print(f"\nReport:  {out}/{report.name}")
    print(f"Metrics, predictions and plots: {out}")


def on_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster; the Ray of an earlier step in this process is none."""
    if not os.environ.get("RAY_ADDRESS"):
        return False
    from cluster.local import is_local

    return not is_local()


def output_folder(config: EvaluateConfig, model: str, split: str) -> str:
    """``--out``, else a folder named by data and split: beside the model, or in ``--storage`` if it is not of a run.

    Beside a run's model are its exports and checkpoints: their names are added.
    """
    from fer.registry import BUNDLED, MODEL

    if config.out is not None:
        return config.out
    parts = ["evaluation", Path(config.data.rstrip("/")).stem, split, config.filter or "", "tta" if config.tta else ""]
    registered = config.model.startswith(("models:/", "runs:/")) or Path(model).parent == BUNDLED
    parent, _, folder = model.rpartition("/")
    if not registered and folder != MODEL:
        parts.append(folder)
    name = "-".join(filter(None, (re.sub(UNNAMEABLE, "-", part).strip("-.") for part in parts)))
    if registered:
        return f"{config.storage}/{re.sub(UNNAMEABLE, '-', config.model)}/{name}"
    return f"{parent or '.'}/{name}"


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("evaluate"))
