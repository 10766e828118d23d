"""Evaluates the stages of a run on labelled frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fer.dynamics.frames import FramePair
from fer.dynamics.metrics import ScoreMetrics, compute_metrics, evaluate_score
from fer.dynamics.predictor import DynamicsPredictor
from fer.dynamics.scores import SCORES
from fer.dynamics.stage_folders import finished_stages, stage_folder

CROSS_VALIDATION = "cross-validation"


@dataclass
class DynamicsEvaluation:
    """Labelled frames, and the scores that each stage estimates for them."""

    frames: Sequence[FramePair]
    split: str
    """val, test, or cross-validation: all frames, each with the model of the fold that it was held out of."""
    estimates: Mapping[str, np.ndarray]
    """Scores (N, 2) by stage, in the order of the stages."""

    @cached_property
    def true(self) -> np.ndarray:
        """True levels (N, 2)."""
        return np.array([pair.scores for pair in self.frames])

    @property
    def last_stage(self) -> str:
        """The stage whose scores are the model's."""
        return list(self.estimates)[-1]

    @property
    def final(self) -> np.ndarray:
        """Scores (N, 2) of the last stage."""
        return self.estimates[self.last_stage]

    @cached_property
    def metrics(self) -> dict[str, ScoreMetrics]:
        """Metrics of each score for the last stage, with intervals over videos."""
        videos = [pair.video for pair in self.frames]
        return {
            score: evaluate_score(score, top, self.true[:, column], self.final[:, column], videos)
            for column, (score, top) in enumerate(SCORES.items())
        }

    def stage_metrics(self, stage: str) -> dict[str, dict[str, float]]:
        """Metrics of each score for one stage, without intervals."""
        return {
            score: compute_metrics(self.true[:, column], self.estimates[stage][:, column], top)
            for column, (score, top) in enumerate(SCORES.items())
        }


def evaluate_stages(root: str, frames: Sequence[FramePair], splits: Sequence[str]) -> DynamicsEvaluation:
    """Evaluate the best weights of each finished stage of a run, on the test split if there is one, else on val."""
    split = "test" if "test" in splits else "val"
    chosen = [pair for pair, name in zip(frames, splits, strict=True) if name == split]
    estimates: dict[str, np.ndarray] = {}
    for stage in finished_stages(root):
        with stage_folder(root, stage) as folder:
            estimates[stage] = DynamicsPredictor(folder).predict(chosen)
    return DynamicsEvaluation(chosen, split, estimates)


def merge_folds(folds: Sequence[DynamicsEvaluation]) -> DynamicsEvaluation:
    """The folds of a cross-validation as one evaluation, in which every frame was held out once."""
    estimates = {stage: np.concatenate([fold.estimates[stage] for fold in folds]) for stage in folds[0].estimates}
    return DynamicsEvaluation([pair for fold in folds for pair in fold.frames], CROSS_VALIDATION, estimates)
