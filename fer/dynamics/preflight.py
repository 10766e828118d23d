"""Before workers start: reads and checks the data, and splits it, so that mistakes are reported at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupKFold

from fer.dynamics.frames import FramePair, read_frames, split_by_video, summarize_rejected
from fer.dynamics.options import DynamicsConfig
from fer.errors import UserError


@dataclass(frozen=True)
class FrameDataset:
    """The frames of a data set, and the rejected ones: path to reason."""

    frames: list[FramePair]
    rejected: dict[str, str]

    def fingerprint(self) -> str:
        """SHA-256 of everything that training reads."""
        digest = hashlib.sha256()
        for pair in self.frames:
            for part in (
                pair.path.encode(),
                pair.flow,
                pair.expression.tobytes(),
                pair.baseline.tobytes(),
                repr(pair.scores).encode(),
            ):
                digest.update(part)
        return digest.hexdigest()


def absolute_path(location: str) -> str:
    """A path that is valid in the workers' directories too; URIs are unchanged."""
    return location if "://" in location else str(Path(location).absolute())


def load_frames(config: DynamicsConfig) -> FrameDataset:
    """Read the data set. Raises UserError if no frame is usable, or more than ``max_bad_fraction`` are rejected."""
    frames, rejected = read_frames(config.data)
    total = len(frames) + len(rejected)
    if not total:
        raise UserError(
            f"{config.data} has no frames: expected folders EXPRESSION/VIDEO_FRAME with optical_flow.jpg in each"
        )
    if len(rejected) > config.max_bad_fraction * total:
        raise UserError(
            f"{len(rejected)} of {total} frames can't be used: {summarize_rejected(rejected)}; fix them, or raise "
            f"--max-bad-fraction ({config.max_bad_fraction:g})"
        )
    return FrameDataset(frames, rejected)


def make_splits(config: DynamicsConfig, frames: Sequence[FramePair]) -> list[list[str]]:
    """The split of each frame (train, val, test): one list, or one per fold. Raises UserError for too little data."""
    videos = [pair.video for pair in frames]
    needed = config.folds or (3 if config.test_split else 2)
    if len(set(videos)) < needed:
        raise UserError(f"{len(set(videos))} video(s) can't be split {needed} ways: add videos")
    if config.folds:
        folds = GroupKFold(config.folds, shuffle=True, random_state=config.split_seed)
        splits = []
        for _, validation in folds.split(np.empty(len(frames)), groups=videos):
            held_out = set(validation.tolist())
            splits.append(["val" if row in held_out else "train" for row in range(len(frames))])
    else:
        splits = [split_by_video(frames, config.val_split, config.test_split, config.split_seed)]
    for split in splits:
        rows = split.count("train")
        if rows // config.workers < config.batch_size:
            raise UserError(
                f"{rows} training frames on {config.workers} worker(s) do not fill one batch of {config.batch_size}: "
                "lower --batch-size or --workers"
            )
    return splits
