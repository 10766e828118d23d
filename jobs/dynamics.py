"""`fer dynamics`: train the scorer of facial dynamics and synkinesis in five stages, and judge every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer.dynamics.options import DynamicsConfig

if TYPE_CHECKING:
    from fer.dynamics.evaluate import Judged
    from fer.dynamics.preflight import FrameSet

Config = DynamicsConfig


def main(config: DynamicsConfig) -> None:
    """Train as ``config`` says; a stopped run of the same name is continued."""
    from cluster.local import connect
    from fer.dynamics.preflight import describe, open_frames, plan_splits
    from fer.dynamics.scores import NOTICE
    from fer.training.launch import required_cpus

    data = open_frames(config)
    splits = plan_splits(config, data.frames)
    print(f"{len(data.frames):,} frames of {len({pair.video for pair in data.frames}):,} videos", flush=True)
    if data.set_aside:
        print(f"{len(data.set_aside)} frames set aside: {describe(data.set_aside)}", flush=True)
    if not config.blendshapes:
        print("No --blendshapes: the landmark net starts from random weights, not from MediaPipe's.", flush=True)
    connect(required_cpus(config))
    if config.folds:
        cross_validate(config, data, splits)
    else:
        train_once(config, data, splits[0])
    print(NOTICE)


def train_once(config: DynamicsConfig, data: FrameSet, split: list[str]) -> None:
    """One training, its model, and its results."""
    from fer.dynamics.evaluate import judge_stages
    from fer.dynamics.runner import go_through, keep_model, log_results
    from fer.dynamics.stages import histories
    from jobs.summary import print_summary

    campaign = go_through(config, data, split)
    judged = judge_stages(campaign.run.root, data.frames, split)
    version = keep_model(config, campaign, judged.of_stage(list(judged.estimates)[-1]))
    log_results(config, campaign.run, campaign.tracking, judged, histories(campaign.run.root), campaign.stages)
    show(judged)
    print_summary(
        config,
        campaign.run,
        campaign.tracking,
        model=f"{campaign.run.root}/model",
        report=f"{campaign.run.root}/report.html",
        version=version,
        next_command=f"fer dynamics predict {campaign.run.root} VIDEO",
    )


def cross_validate(config: DynamicsConfig, data: FrameSet, splits: list[list[str]]) -> None:
    """A training for each fold, all of them below one MLflow run, and the results of all frames together."""
    from fer.dynamics.evaluate import join, judge_stages
    from fer.dynamics.runner import go_through, log_results, open_campaign
    from fer.dynamics.stages import histories
    from jobs.summary import print_summary

    run, tracking = open_campaign(config, data)
    folds = []
    for number, split in enumerate(splits, 1):
        print(f"\nfold {number} of {len(splits)}", flush=True)
        fold = config.model_copy(update={"name": f"{run.name}-fold-{number}"})
        campaign = go_through(fold, data, split, tracking)
        folds.append(judge_stages(campaign.run.root, data.frames, split))
        log_results(fold, campaign.run, campaign.tracking, folds[-1], histories(campaign.run.root), campaign.stages)
    judged = join(folds)
    log_results(config, run, tracking, judged)
    show(judged)
    print_summary(config, run, tracking, report=f"{run.root}/report.html")


def show(judged: Judged) -> None:
    """The table of the stages."""
    import rich

    from fer.dynamics.evaluate import console, sentence

    print(f"\n{sentence(judged)}\n")
    rich.print(console(judged))
    print()


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics"))
