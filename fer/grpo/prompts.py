"""The questions that are asked: rows from shards in training order, as engines and trainers take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from fer.data.manifest import ShardedDataset
from fer.data.stream.reader import iter_batches, read_window
from fer.data.stream.sampler import row_groups, training_windows
from fer.grpo.options import GrpoConfig
from fer.grpo.vllm_engine import Prompt
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import COLUMNS, expected_answer, row_image, row_turns


@dataclass(frozen=True)
class Question:
    """A row: what the engines are asked, what the trainers compute of it, and the right answer."""

    prompt: Prompt
    inputs: dict[str, Tensor]
    """The model's inputs of the prompt alone: input_ids (1, T) with the image's tokens, and what else it wants."""
    path: str
    asked: str
    answer: str


class CollateQuestions(ArrowBatchCollateFn):
    """Rows to questions."""

    def __init__(self, chat: ChatFormat) -> None:
        self.chat = chat

    def __call__(self, table: pa.Table) -> list[Question]:  # type: ignore[override]
        return [self._question(row) for row in table.to_pylist()]

    def _question(self, row: dict[str, Any]) -> Question:
        text, image = self.chat.render_prompt(row_turns(row)), row_image(row, self.chat)
        inputs = self.chat.collate_prompts([text], [image])
        return Question(Prompt(text, image), inputs, row["path"], row["prompt"], expected_answer(row))


class Questions:
    """One trainer's share of the training rows, epoch after epoch, a batch at a time."""

    def __init__(self, dataset: ShardedDataset, config: GrpoConfig, chat: ChatFormat, rank: int) -> None:
        self.config, self.chat, self.rank = config, chat, rank
        self.groups = row_groups(dataset, "train")
        self.per_epoch = batches_per_epoch(dataset, config)

    def stream(self, first: int) -> Iterator[list[Question]]:
        """Batches of ``prompts_per_worker`` questions for ever, from number ``first`` of the run on."""
        config = self.config
        epoch, skip = divmod(first, self.per_epoch)
        size = config.prompts_per_worker
        while True:
            windows = training_windows(
                self.groups,
                seed=config.seed,
                epoch=epoch,
                rank=self.rank,
                world_size=config.workers,
                rows=self.per_epoch * size,
                skip=skip * size,
            )
            load = partial(read_window, columns=COLUMNS)
            yield from iter_batches(
                windows, load, CollateQuestions(self.chat), batch_size=size, threads=config.decode_threads
            )
            epoch, skip = epoch + 1, 0


def batches_per_epoch(dataset: ShardedDataset, config: GrpoConfig) -> int:
    """Whole batches of an epoch; the rows that make no whole batch are others in each epoch."""
    return dataset.split("train").rows // config.prompts
