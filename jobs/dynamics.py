"""`fer dynamics`: train a model of facial dynamics and synkinesis in five stages, and evaluate each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer.dynamics.options import DynamicsConfig

if TYPE_CHECKING:
    from fer.dynamics.evaluate.evaluator import DynamicsEvaluation
    from fer.dynamics.preflight import FrameDataset

Config = DynamicsConfig


def main(config: DynamicsConfig) -> None:
    """Train; an interrupted run of the same name is resumed."""
    from cluster.preflight import connect_for
    from fer.dynamics.frames import summarize_rejected
    from fer.dynamics.preflight import load_frames, make_splits
    from fer.dynamics.scores import DISCLAIMER

    data = load_frames(config)
    splits = make_splits(config, data.frames)
    print(f"{len(data.frames):,} frames of {len({pair.video for pair in data.frames}):,} videos", flush=True)
    if data.rejected:
        print(f"{len(data.rejected)} frames rejected: {summarize_rejected(data.rejected)}", flush=True)
    if not config.blendshapes:
        print("No --blendshapes: the landmark net starts from random weights, not from MediaPipe's.", flush=True)
    connect_for(config)
    if config.folds:
        cross_validate(config, data, splits)
    else:
        train_once(config, data, splits[0])
    print(DISCLAIMER)


def train_once(config: DynamicsConfig, data: FrameDataset, split: list[str]) -> None:
    """One training run, its model and its results."""
    from fer.dynamics.evaluate.evaluator import evaluate_stages
    from fer.dynamics.evaluate.results import log_results
    from fer.dynamics.export import export_model
    from fer.dynamics.runner import train_stages
    from fer.dynamics.stage_folders import stage_histories
    from jobs.summary import print_summary

    run = train_stages(config, data, split)
    root = run.folder.root
    evaluation = evaluate_stages(root, data.frames, split)
    metrics = evaluation.stage_metrics(evaluation.last_stage)
    folder, version = export_model(config, run.folder, run.tracking, metrics)
    log_results(config, run.folder, run.tracking, evaluation, stage_histories(root), run.stages)
    print_metrics(evaluation)
    print_summary(
        config,
        run.folder,
        run.tracking,
        model=folder,
        report=f"{root}/report.html",
        version=version,
        next_command=f"fer dynamics predict --model {root} VIDEO",
    )


def cross_validate(config: DynamicsConfig, data: FrameDataset, splits: list[list[str]]) -> None:
    """A training run per fold, nested in one MLflow run, and the results of all folds together."""
    from fer.dynamics.evaluate.evaluator import evaluate_stages, merge_folds
    from fer.dynamics.evaluate.results import log_results
    from fer.dynamics.runner import open_dynamics_run, train_stages
    from fer.dynamics.stage_folders import stage_histories
    from jobs.summary import print_summary

    folder, tracking = open_dynamics_run(config, data)
    folds = []
    for number, split in enumerate(splits, 1):
        print(f"\nfold {number} of {len(splits)}", flush=True)
        fold_config = config.model_copy(update={"name": f"{folder.name}-fold-{number}"})
        run = train_stages(fold_config, data, split, tracking)
        folds.append(evaluate_stages(run.folder.root, data.frames, split))
        histories = stage_histories(run.folder.root)
        log_results(fold_config, run.folder, run.tracking, folds[-1], histories, run.stages)
    evaluation = merge_folds(folds)
    log_results(config, folder, tracking, evaluation)
    print_metrics(evaluation)
    print_summary(config, folder, tracking, report=f"{folder.root}/report.html")


def print_metrics(evaluation: DynamicsEvaluation) -> None:
    """Print the metrics of each stage as a table."""
    import rich

    from fer.dynamics.evaluate.summary import console_table, coverage_sentence

    print(f"\n{coverage_sentence(evaluation)}\n")
    rich.print(console_table(evaluation))
    print()


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics"))
