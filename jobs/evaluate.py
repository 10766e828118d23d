"""`fer evaluate`: evaluate a model on a labelled data set, with intervals, plots and a report."""

from __future__ import annotations

import re
from pathlib import Path

from fer.classifier.evaluate.options import EvaluateConfig

Config = EvaluateConfig


def main(config: EvaluateConfig) -> None:
    """Evaluate ``config.model`` on ``config.data``, print the metrics, and write them with a report."""
    import rich

    from fer.classifier.evaluate.evaluator import default_split, evaluate
    from fer.classifier.evaluate.results import EvaluationSetup, find_history, write_results
    from fer.classifier.evaluate.summary import console_tables, describe_coverage
    from fer.classifier.predictor import Predictor
    from fer.data.prepare import open_dataset
    from fer.registry import resolve_model

    folder = resolve_model(config.model, config)
    predictor = Predictor([folder], config.device, config.tta, config.batch_size)
    dataset = open_dataset(config, cache=f"{config.out_dir}/data")
    split = config.split or default_split(dataset)
    evaluation = evaluate(predictor, dataset, split, config.filter, config.seed, config.max_bad_fraction)

    spec = predictor.specs[0]
    history = find_history(folder, spec, config.out_dir)
    settings = config.model_dump(include={"filter", "tta", "seed", "label_space"}) | {"device": str(predictor.device)}
    setup = EvaluationSetup(config.model, folder, spec, config.data, dataset, settings, history)
    report = write_results(evaluation, setup, output_folder(config, folder, split), config.thumbnails)

    print(" ".join(describe_coverage(evaluation)), end="\n\n")
    rich.print(console_tables(evaluation))
    print(f"\nReport:  {report}")
    print(f"Metrics, predictions and plots: {report.parent}")


def output_folder(config: EvaluateConfig, model: Path, split: str) -> Path:
    """``--out``, else a folder named by data and split: beside the model, or in ``--out-dir`` if it is not of a run."""
    from fer.registry import BUNDLED

    if config.out is not None:
        return Path(config.out)
    parts = ["evaluation", Path(config.data.rstrip("/")).stem, split, config.filter or "", "tta" if config.tta else ""]
    name = "-".join(filter(None, (re.sub(r"[^\w.]+", "-", part).strip("-.") for part in parts)))
    if ":/" in config.model or model.parent == BUNDLED:
        return Path(config.out_dir) / re.sub(r"[^\w.]+", "-", config.model) / name
    return model.parent / name


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("evaluate"))
