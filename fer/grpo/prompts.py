"""The training prompts: rows from shards in training order, as engines and trainers take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from torch import Tensor

from fer.data.manifest import ShardedDataset
from fer.data.stream.reader import iter_batches, read_window
from fer.data.stream.sampler import row_groups, training_windows
from fer.grpo.options import GrpoConfig
from fer.grpo.rollout import Prompt
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import COLUMNS, Position, prompt_rows


@dataclass(frozen=True)
class PromptExample:
    """A training row: the prompt for the engines, the same prompt as model inputs, and the right answer."""

    prompt: Prompt
    inputs: dict[str, Tensor]
    """The model's inputs for the prompt alone: input_ids (1, T) with the image's tokens, pixel values, ..."""
    path: str
    question: str
    """The text of the prompt, without the chat template."""
    answer: str


class PromptCollator:
    """Rows to examples."""

    def __init__(self, chat: ChatFormat) -> None:
        self.chat = chat

    def __call__(self, table: pa.Table) -> list[PromptExample]:
        return [
            PromptExample(
                Prompt(row.text, row.image),
                self.chat.collate_prompts([row.text], [row.image]),
                row.path,
                row.question,
                row.answer,
            )
            for row in prompt_rows(table, self.chat)
        ]


class PromptLoader:
    """One trainer's share of the training rows, batch by batch and epoch after epoch."""

    def __init__(self, dataset: ShardedDataset, config: GrpoConfig, chat: ChatFormat, rank: int) -> None:
        self.config, self.chat, self.rank = config, chat, rank
        self.groups = row_groups(dataset, "train")
        self.per_epoch = batches_per_epoch(dataset, config)

    def batches(self, first: int, earlier: Position = ()) -> Iterator[list[PromptExample]]:
        """Batches of ``prompts_per_worker`` examples without end, from the run's batch number ``first`` on.

        ``earlier``: the part of its epoch before the number of workers changed.
        """
        config = self.config
        epoch, skip = divmod(first, self.per_epoch)
        size, done = config.prompts_per_worker, batches_of(earlier, config)
        while True:
            windows = training_windows(
                self.groups,
                seed=config.seed,
                epoch=epoch,
                rank=self.rank,
                world_size=config.workers,
                rows=(self.per_epoch - done) * size,
                skip=(skip - done) * size,
                earlier=earlier,
            )
            load = partial(read_window, columns=COLUMNS)
            yield from iter_batches(
                windows, load, PromptCollator(self.chat), batch_size=size, threads=config.decode_threads
            )
            epoch, skip, done, earlier = epoch + 1, 0, 0, ()


def batches_of(position: Position, config: GrpoConfig) -> int:
    """Batches of a part of an epoch."""
    return sum(workers * rows for workers, rows in position) // config.prompts_per_step


def batches_per_epoch(dataset: ShardedDataset, config: GrpoConfig) -> int:
    """Full batches in an epoch; the rows left over are different ones in each epoch."""
    return dataset.split("train").rows // config.prompts_per_step
