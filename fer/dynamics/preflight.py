"""What must hold before workers start: the data is read and checked, and a mistake is told at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupKFold

from fer.dynamics.frames import FramePair, read_frames, split_by_video
from fer.dynamics.options import DynamicsConfig
from fer.errors import UserError


@dataclass(frozen=True)
class FrameSet:
    """The frames of a data set, and those set aside with their reasons, by path."""

    frames: list[FramePair]
    set_aside: dict[str, str]

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


def absolute(location: str) -> str:
    """A path that workers in other folders find too; a URI as it is."""
    return location if "://" in location else str(Path(location).absolute())


def open_frames(config: DynamicsConfig) -> FrameSet:
    """Read the data set. Raises UserError if no frame is usable, or more are bad than ``max_bad_fraction`` allows."""
    frames, set_aside = read_frames(config.data)
    if not frames and not set_aside:
        raise UserError(f"{config.data} holds no frames: folders EXPRESSION/VIDEO_FRAME with optical_flow.jpg in each")
    if len(set_aside) > config.max_bad_fraction * (len(frames) + len(set_aside)):
        raise UserError(
            f"{len(set_aside)} of {len(frames) + len(set_aside)} frames can't be used: {describe(set_aside)}; mend "
            f"them, or raise --max-bad-fraction ({config.max_bad_fraction:g})"
        )
    return FrameSet(frames, set_aside)


def describe(set_aside: dict[str, str]) -> str:
    """The reasons, each with its count and one of its frames."""
    example = {reason: path for path, reason in reversed(set_aside.items())}
    counts = Counter(set_aside.values()).most_common()
    return "; ".join(f"{count}: {reason} (such as {example[reason]})" for reason, count in counts)


def plan_splits(config: DynamicsConfig, frames: Sequence[FramePair]) -> list[list[str]]:
    """The part of each frame: once, or once for each fold. Raises UserError for too few videos or frames."""
    videos = [pair.video for pair in frames]
    needed = config.folds or (3 if config.test_split else 2)
    if len(set(videos)) < needed:
        raise UserError(f"{len(set(videos))} video(s) can't be split into {needed} parts: add videos")
    if config.folds:
        folds = GroupKFold(config.folds, shuffle=True, random_state=config.split_seed)
        splits = []
        for _, judged in folds.split(np.empty(len(frames)), groups=videos):
            part = np.full(len(frames), "train", dtype=object)
            part[judged] = "val"
            splits.append(part.tolist())
    else:
        splits = [split_by_video(frames, config.val_split, config.test_split, config.split_seed)]
    for split in splits:
        rows = split.count("train") // config.workers
        if rows < config.batch_size:
            raise UserError(
                f"{split.count('train')} training frames for {config.workers} worker(s) do not fill one batch of "
                f"{config.batch_size}: lower --batch-size or --workers"
            )
    return splits
