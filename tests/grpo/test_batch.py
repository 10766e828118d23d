"""Scores of rollout groups, and batches that hold every completion token at its position."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer.grpo.batch import balanced_sizes, make_batches
from fer.grpo.groups import make_rows, score_group
from fer.grpo.rewards import RewardScorer
from tests.fixtures.grpo import make_example, make_output

PAD = 0
SCORER = RewardScorer({"accuracy": 1.0})


def test_a_group_has_signal_if_its_rewards_differ() -> None:
    group = score_group(make_example(3), make_output(2, 2), SCORER, 10)
    assert group.rewards == [1.0, 0.0]
    assert group.has_signal
    assert not score_group(make_example(3), make_output(2, 2, text="<answer>happy</answer>"), SCORER, 10).has_signal


@given(
    st.lists(st.tuples(st.integers(1, 7), st.lists(st.integers(1, 5), min_size=2, max_size=2)), min_size=1, max_size=4),
    st.sampled_from([1, 2]),
)
def test_every_completion_token_is_in_one_batch_at_its_position(sizes: list[tuple[int, list[int]]], size: int) -> None:
    groups = [
        score_group(make_example(prompt, 100 * (i + 1)), make_output(*lengths), SCORER, 10)
        for i, (prompt, lengths) in enumerate(sizes)
    ]
    batches = list(make_batches(make_rows(groups, True), size, PAD))
    assert sum(len(batch.mask) for batch in batches) == 2 * len(sizes)
    assert sum(int(batch.mask.sum()) for batch in batches) == sum(sum(lengths) for _, lengths in sizes)
    for batch in batches:
        ids, attention = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        for row in range(len(ids)):
            completion = ids[row, batch.start :][batch.mask[row]]
            assert completion.tolist() == list(range(1, len(completion) + 1))
            assert batch.engine_logprobs[row][batch.mask[row]].tolist() == [-float(n) for n in completion]
            start = int(batch.mask[row].nonzero()[0]) + batch.start
            assert ids[row, :start].min() >= 100, "all of the prompt comes before it"
            assert attention[row].sum() == start + len(completion)
            assert batch.inputs["mm_token_type_ids"][row].tolist() == [1] * start + [0] * (ids.shape[1] - start)
        assert batch.inputs["pixel_values"].shape == (2 * len(ids), 3)
        assert batch.inputs["pixel_values"][::2, 0].tolist() == [
            float(batch.mask[row].nonzero()[0]) + batch.start for row in range(len(ids))
        ], "each row has its own image"


def test_advantages_are_relative_to_the_group() -> None:
    groups = [score_group(make_example(3), make_output(2, 1), SCORER, 10) for _ in range(2)]
    batches = make_batches(make_rows(groups, scale_rewards=False), 2, PAD)
    advantages = torch.cat([batch.advantages for batch in batches])
    assert sorted(advantages.tolist()) == pytest.approx([-0.5, -0.5, 0.5, 0.5])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 9))
def test_no_other_cut_has_a_smaller_largest_batch(lengths: list[int], batches: int) -> None:
    lengths, batches = sorted(lengths, reverse=True), min(batches, len(lengths))

    def largest(sizes: tuple[int, ...]) -> int:
        starts = itertools.accumulate((0, *sizes[:-1]))
        return max(size * lengths[start] for size, start in zip(sizes, starts, strict=True))

    def cuts() -> Iterator[tuple[int, ...]]:
        for inner in itertools.combinations(range(1, len(lengths)), batches - 1):
            bounds = (0, *inner, len(lengths))
            yield tuple(end - start for start, end in itertools.pairwise(bounds))

    sizes = tuple(balanced_sizes(lengths, batches))
    assert (len(sizes), sum(sizes), min(sizes) > 0) == (batches, len(lengths), True)
    assert largest(sizes) == min(map(largest, cuts()))


def test_long_completions_are_in_smaller_batches() -> None:
    assert balanced_sizes([1000, 400, 300, 300, 200, 200, 200, 200], 2) == [2, 6]
    assert balanced_sizes([1000, 1, 1, 1, 1], 3) == [1, 2, 2]
    assert balanced_sizes([7] * 8, 2) == [4, 4]
