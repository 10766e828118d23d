"""Batches of conversations: every row once per epoch, from any position, with little padding."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from fer.data.manifest import ShardedDataset
from fer.grpo.options import GrpoConfig
from fer.grpo.prompts import PromptLoader
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import ChatDataLoader, SftBatch
from fer.vlm.model import load_processor
from fer.vlm.options import BatchOptions, ImageOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def chat(tiny_models) -> ChatFormat:  # type: ignore[no-untyped-def]
    processor = load_processor(str(tiny_models / "qwen2.5-vl"))
    return ChatFormat(processor, ImageOptions(image_size=28), max_tokens=512)


def data_loader(
    dataset: ShardedDataset, chat: ChatFormat, rank: int = 0, world_size: int = 1, **options: int
) -> ChatDataLoader:
    return ChatDataLoader(
        dataset, BatchOptions(**{"batch_size": 4, "bucket_batches": 3} | options), chat, 0, rank, world_size
    )


@pytest.fixture(scope="module")
def epochs(question_shards: ShardedDataset, chat: ChatFormat) -> list[list[SftBatch]]:
    """Two epochs of one worker."""
    return [list(data_loader(question_shards, chat).train_batches(epoch)) for epoch in (0, 1)]


def rows_of(batches: list[SftBatch]) -> list[tuple[float, ...]]:
    """Rows identified by their pixels."""
    return [
        tuple(part.flatten().tolist()) for batch in batches for part in batch.inputs["pixel_values"].chunk(batch.rows)
    ]


def test_two_workers_see_every_row_once_in_each_epoch(question_shards: ShardedDataset, chat: ChatFormat) -> None:
    total = question_shards.split("train").rows
    seen: Counter[tuple[float, ...]] = Counter()
    for rank in range(2):
        batches = list(data_loader(question_shards, chat, rank, 2).train_batches(0))
        assert len(batches) == data_loader(question_shards, chat, rank, 2).batches_per_epoch
        seen.update(rows_of(batches))
    assert seen.total() == total - total % 2
    assert max(seen.values()) == 1


@pytest.mark.parametrize("first", [1, 3, 5, 8])
def test_resuming_at_any_position_yields_the_same_batches(
    question_shards: ShardedDataset, chat: ChatFormat, epochs: list[list[SftBatch]], first: int
) -> None:
    full = epochs[1]
    resumed = list(data_loader(question_shards, chat).train_batches(1, first))
    assert len(resumed) == len(full) - first
    for one, other in zip(full[first:], resumed, strict=True):
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_the_rest_of_an_epoch_on_another_number_of_workers(question_shards: ShardedDataset, chat: ChatFormat) -> None:
    """Two workers consume a bucket each, three the rest; then each worker continues within its part."""
    total = question_shards.split("train").rows
    earlier = [(2, 3 * 4)]
    seen: Counter[tuple[float, ...]] = Counter()
    for rank in range(2):
        batches = data_loader(question_shards, chat, rank, 2).train_batches(0)
        seen.update(rows_of([next(batches) for _ in range(3)]))
    for rank in range(3):
        loader = data_loader(question_shards, chat, rank, 3)
        rest = list(loader.train_batches(0, 0, earlier))
        assert len(rest) == sum(loader.step_sizes(earlier))
        assert rows_of(list(loader.train_batches(0, 2, earlier))) == rows_of(rest[2:])
        seen.update(rows_of(rest))
    assert max(seen.values()) == 1
    assert seen.total() == total - (total - 24) % 3
    assert data_loader(question_shards, chat).step_sizes([(1, total)]) == []


def test_prompts_of_reinforcement_learning_on_another_number_of_workers(
    question_shards: ShardedDataset, chat: ChatFormat
) -> None:
    def batches(workers: int, rank: int, first: int, last: int, earlier: list[tuple[int, int]]) -> list[str]:
        config = GrpoConfig(data="x", workers=workers, prompts_per_step=6, num_generations=2, batch_size=2)
        loader = PromptLoader(question_shards, config, chat, rank)
        found = islice(loader.batches(first, earlier), last - first)
        return [example.path + example.question for batch in found for example in batch]

    epoch = question_shards.split("train").rows // 6
    seen = Counter(path for rank in range(3) for path in batches(3, rank, 0, 4, []))
    earlier = [(3, 8)]
    for rank in range(2):
        rest = batches(2, rank, 4, epoch, earlier)
        assert batches(2, rank, 6, epoch, earlier) == rest[2 * 3 :]
        seen.update(rest)
    assert seen.total() == 6 * epoch
    assert max(seen.values()) == 1
    both = [batches(2, rank, 4, 2 * epoch, earlier) for rank in range(2)]
    assert [each[-3 * epoch :] for each in both] == [batches(2, rank, epoch, 2 * epoch, []) for rank in range(2)]


def test_epochs_differ(epochs: list[list[SftBatch]]) -> None:
    first, second = map(rows_of, epochs)
    assert first != second
    assert Counter(first) == Counter(second)


def test_sorting_by_length_reduces_padding(question_shards: ShardedDataset, chat: ChatFormat) -> None:
    def padding(bucket_batches: int) -> float:
        batches = list(data_loader(question_shards, chat, bucket_batches=bucket_batches).train_batches(0))
        return 1 - sum(b.tokens for b in batches) / sum(b.inputs["input_ids"].numel() for b in batches)

    assert padding(16) < 0.5 * padding(1)


def test_workers_have_batches_of_similar_length_at_the_same_step(
    question_shards: ShardedDataset, chat: ChatFormat
) -> None:
    widths = [
        torch.tensor(
            [b.inputs["input_ids"].shape[1] for b in data_loader(question_shards, chat, rank, 2).train_batches(0)]
        )
        for rank in range(2)
    ]
    assert torch.corrcoef(torch.stack(widths).float())[0, 1] > 0.5


def test_an_epoch_s_batches_are_divided_evenly_among_steps(question_shards: ShardedDataset, chat: ChatFormat) -> None:
    one = data_loader(question_shards, chat, batch_size=8, grad_accum_steps=5)
    sizes = one.step_sizes()
    assert sum(sizes) == one.batches_per_epoch
    assert max(sizes) <= 5
    assert max(sizes) - min(sizes) <= 1


def test_validation_is_sharded_and_limited(question_shards: ShardedDataset, chat: ChatFormat) -> None:
    shares = [list(data_loader(question_shards, chat, rank, 2).val_batches(10)) for rank in range(2)]
    assert [sum(batch.rows for batch in share) for share in shares] == [5, 5]
    prompts = [batch for rank in range(2) for batch in data_loader(question_shards, chat, rank, 2).val_prompts(7)]
    assert sum(len(batch.rows) for batch in prompts) == 7
    assert all(row.answer for batch in prompts for row in batch.rows)
