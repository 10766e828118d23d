"""Splits of the frames before training starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fer.dynamics.frames import FramePair
from fer.dynamics.options import DynamicsConfig
from fer.dynamics.preflight import make_splits
from fer.errors import UserError

MakePairs = Callable[[list[int]], list[FramePair]]


def test_folds_hold_out_every_video_once(make_pairs: MakePairs) -> None:
    frames = make_pairs([4] * 11)
    folds = make_splits(DynamicsConfig(data="-", folds=4, batch_size=8), frames)
    held_out = [{pair.video for pair, split in zip(frames, fold, strict=True) if split == "val"} for fold in folds]
    assert sum(map(len, held_out)) == 11 == len(set().union(*held_out))
    for fold, videos in zip(folds, held_out, strict=True):
        assert not videos & {pair.video for pair, split in zip(frames, fold, strict=True) if split == "train"}


def test_too_few_videos_or_frames_are_a_user_error(make_pairs: MakePairs) -> None:
    with pytest.raises(UserError, match="1 video"):
        make_splits(DynamicsConfig(data="-"), make_pairs([3]))
    with pytest.raises(UserError, match="lower --batch-size"):
        make_splits(DynamicsConfig(data="-"), make_pairs([3, 3]))
