"""Rows are recognised by file name and image, all of a small split, and a part of a large one."""

from __future__ import annotations

import numpy as np
import pytest

from fer.data.row_sample import SAMPLE_ROWS, RowSample, row_hash


def test_a_row_is_the_same_in_another_folder_and_not_with_another_name_or_image() -> None:
    assert row_hash("ck+/anger/1.png", b"image") == row_hash("mix/ck/anger/1.png", b"image")
    assert row_hash("anger/1.png", b"image") != row_hash("anger/2.png", b"image")
    assert row_hash("anger/1.png", b"image") != row_hash("anger/1.png", b"other")


def test_a_small_split_is_sampled_completely() -> None:
    hashes = [row_hash(f"{row}.png", b"image") for row in range(1000)]
    sample = RowSample([*hashes, *hashes])
    again = RowSample.decode(sample.encode())
    assert all(value in again for value in hashes)
    assert row_hash("1000.png", b"image") not in again
    assert again.rate == 1
    assert RowSample.decode("").encode() == ""


def test_a_large_split_is_sampled_at_a_known_rate_whatever_its_parts() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 40_000, np.uint64).tolist()
    sample = RowSample(hashes)
    assert sum(value in sample for value in hashes) == SAMPLE_ROWS
    assert sample.rate == pytest.approx(SAMPLE_ROWS / 40_000, rel=0.05)
    parts = [RowSample(hashes[start : start + 7000]).encode() for start in range(0, 40_000, 7000)]
    assert RowSample.decode(*parts).encode() == sample.encode()
    assert len(sample.encode()) < 44_000
