"""Trainers exchange completions: equal tokens, and the same loss and gradient as without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fer.grpo.balance import TOLERANCE, balance_rows, plan_exchange
from fer.grpo.batch import make_batches
from fer.grpo.groups import Row, make_rows, score_group
from fer.grpo.loss import Totals, policy_loss
from fer.grpo.rewards import RewardScorer
from tests.fixtures.grpo import make_example, make_output

LENGTHS = [[(9, [40, 35, 38, 3]), (4, [30, 22, 17, 29])], [(5, [2, 3, 1, 8]), (6, [9, 2, 4, 5])]]
"""Prompt and completions of each group of two trainers."""


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_every_row_is_on_one_trainer_and_all_have_as_many_as_before(
    trainers: int, rows: int, data: st.DataObject
) -> None:
    length = st.integers(1, 500)
    lengths = data.draw(st.lists(st.lists(length, min_size=rows, max_size=rows), min_size=trainers, max_size=trainers))
    places = plan_exchange(lengths)
    assert sorted(place for own in places for place in own) == [(a, i) for a in range(trainers) for i in range(rows)]
    assert {len(own) for own in places} == {rows}
    before = [sum(own) for own in lengths]
    after = [sum(lengths[at][index] for at, index in own) for own in places]
    assert max(after) <= max(before)
    assert min(after) >= min(before)


def test_trainers_get_equally_many_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (214 + 245 * (0.6 * torch.randn(7, 32, generator=generator)).exp()).int().tolist()
    totals = [sum(lengths[at][index] for at, index in own) for own in plan_exchange(lengths)]
    assert max(totals) - min(totals) <= TOLERANCE * sum(totals) / 7
    assert plan_exchange([[5, 5], [5, 5]]) == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]], "nothing moves"


def loss_and_gradient(rows: list[Row], totals: Totals) -> tuple[Tensor, Tensor]:
    """Of all trainers, of a policy that knows each token by the one before."""
    policy = torch.linspace(-1, 1, 200 * 50).sin().reshape(200, 50).double().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for batch in make_batches(rows, 2, 0):
        ids = batch.inputs["input_ids"]
        logprobs = policy[ids[:, batch.start - 1 : -1]].log_softmax(-1)
        logprobs = logprobs.gather(-1, ids[:, batch.start :, None].clamp(max=49))[..., 0]
        outcome = policy_loss(
            logprobs,
            batch.engine_logprobs / 100 - 3.9,
            logprobs.detach() * 1.01,
            batch.advantages,
            batch.mask,
            batch.mask.double(),
            totals,
            loss_type="grpo",
            clip_ratio_low=0.2,
            clip_ratio_high=0.2,
            beta=0.04,
            max_tokens=40,
        )
        outcome.loss.backward()
        loss += outcome.loss.detach()
    dist.all_reduce(loss)
    dist.all_reduce(policy.grad)
    return loss, policy.grad  # type: ignore[return-value]


def trainer(rank: int, store: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    scorer = RewardScorer({"accuracy": 1.0})
    groups = [
        score_group(make_example(prompt), make_output(*completions), scorer, 40)
        for prompt, completions in LENGTHS[rank]
    ]
    rows = make_rows(groups, scale_rewards=True)
    balanced = balance_rows(rows)
    assert len(balanced) == len(rows)
    tokens = torch.tensor([sum(row.num_tokens for row in rows), sum(row.num_tokens for row in balanced)])
    other = tokens.clone()
    dist.all_reduce(other)
    other -= tokens
    assert abs(tokens[0] - other[0]) > 100
    assert abs(tokens[1] - other[1]) <= 5
    totals = Totals(16, sum(sum(own) for part in LENGTHS for _, own in part))
    expected, gradient = loss_and_gradient(rows, totals)
    loss, balanced_gradient = loss_and_gradient(balanced, totals)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(balanced_gradient, gradient)
    assert gradient.abs().max() > 0
    dist.destroy_process_group()


@pytest.mark.slow
def test_loss_and_gradient_do_not_depend_on_where_a_row_is(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(trainer, (str(tmp_path / "store"),), nprocs=2)
