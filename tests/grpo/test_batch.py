"""Experience: rewards of groups, and batches in which every sampled token stands at its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer.grpo.batch import cut, reward
from fer.grpo.prompts import Question
from fer.grpo.rewards import Scorer
from fer.grpo.vllm_engine import Group, Prompt, Sampled

PAD = 0


def question(tokens: int, first: int = 100) -> Question:
    ids = torch.arange(first, first + tokens)[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.ones_like(ids),
        "pixel_values": torch.full((2, 3), float(tokens)),
    }
    return Question(Prompt("?", np.zeros((2, 2, 3), np.uint8)), inputs, "a.png", "?", "happy")


def group(*lengths: int, text: str = "") -> Group:
    samples = [
        Sampled(
            text if i else "<answer>happy</answer>", list(range(1, n + 1)), [-float(k) for k in range(1, n + 1)], False
        )
        for i, n in enumerate(lengths)
    ]
    return Group([], samples, 0)


SCORER = Scorer({"accuracy": 1.0})


def test_a_group_teaches_if_its_rewards_differ() -> None:
    episode = reward(question(3), group(2, 2), SCORER, 10)
    assert episode.rewards == [1.0, 0.0]
    assert episode.teaches
    assert not reward(question(3), group(2, 2, text="<answer>happy</answer>"), SCORER, 10).teaches


@given(
    st.lists(st.tuples(st.integers(1, 7), st.lists(st.integers(1, 5), min_size=2, max_size=2)), min_size=1, max_size=4),
    st.sampled_from([1, 2]),
)
def test_every_sampled_token_is_in_one_batch_at_its_place(episodes: list[tuple[int, list[int]]], size: int) -> None:
    given_episodes = [
        reward(question(prompt, 100 * (i + 1)), group(*lengths), SCORER, 10)
        for i, (prompt, lengths) in enumerate(episodes)
    ]
    batches = list(cut(given_episodes, size, True, PAD))
    assert sum(len(batch.mask) for batch in batches) == 2 * len(episodes)
    assert sum(int(batch.mask.sum()) for batch in batches) == sum(sum(lengths) for _, lengths in episodes)
    for batch in batches:
        ids, attention = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        for row in range(len(ids)):
            said = ids[row, batch.start :][batch.mask[row]]
            assert said.tolist() == list(range(1, len(said) + 1)), "the completion's tokens"
            assert batch.sampled_by[row][batch.mask[row]].tolist() == [-float(n) for n in said]
            before = int(batch.mask[row].nonzero()[0]) + batch.start
            assert ids[row, :before].min() >= 100, "all of the prompt stands before it"
            assert attention[row].sum() == before + len(said)
            assert batch.inputs["mm_token_type_ids"][row].tolist() == [1] * before + [0] * (ids.shape[1] - before)
        assert batch.inputs["pixel_values"].shape == (2 * len(ids), 3)
        assert batch.inputs["pixel_values"][::2, 0].tolist() == [
            float(batch.mask[row].nonzero()[0]) + batch.start for row in range(len(ids))
        ], "each row has its own image"


def test_gains_are_of_the_group() -> None:
    episodes = [reward(question(3), group(2, 1), SCORER, 10), reward(question(3), group(2, 1), SCORER, 10)]
    gains = torch.cat([batch.advantage for batch in cut(episodes, 2, False, PAD)])
    assert sorted(gains.tolist()) == pytest.approx([-0.5, -0.5, 0.5, 0.5])
