"""The data loader of conversations: rows from shards in training order, in batches of similar length.

Rows come in chunks of ``bucket_batches`` batches. Each chunk is sorted by length and divided into batches, which are
then shuffled in an order that all workers share: workers synchronise at every step, so their batches should be of
similar length too. A batch's number determines its rows, so a position in the epoch is a single number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from fer.answers import extract_answer
from fer.data.manifest import ShardedDataset
from fer.data.stream.reader import iter_batches, read_window
from fer.data.stream.sampler import Window, row_groups, sequential_windows, training_windows
from fer.data.vqa.questions import Turn
from fer.errors import BadRow, UserError
from fer.vlm.chat import IGNORE_INDEX, ChatFormat
from fer.vlm.options import BatchOptions

TEXT_COLUMNS = ("path", "prompt", "response", "answer", "candidate_labels", "followups")
COLUMNS = ("image", *TEXT_COLUMNS)


Position = Sequence[tuple[int, int]]
"""The part of an epoch before the number of workers changed: pairs (workers, rows that each of them consumed)."""


@dataclass(frozen=True)
class SftBatch:
    """Padded conversations as model inputs, with counts for the logs."""

    inputs: dict[str, Tensor]
    """input_ids and labels (N, T) int64, attention_mask, and the model's image inputs."""
    rows: int
    tokens: int
    """Tokens without padding."""
    loss_tokens: int
    """Tokens that carry loss, without each row's first token, which is never predicted."""

    @classmethod
    def from_inputs(cls, inputs: dict[str, Tensor]) -> SftBatch:
        return cls(
            inputs,
            rows=len(inputs["input_ids"]),
            tokens=int(inputs["attention_mask"].sum()),
            loss_tokens=int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum()),
        )


@dataclass(frozen=True)
class PromptRow:
    """A stored row as a prompt for generation, with the expected answer."""

    path: str
    question: str
    """The row's first prompt, as it is stored."""
    text: str
    """The last turn's prompt after the turns before it, rendered by the chat template."""
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    answer: str


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded on the left, for generation."""

    inputs: dict[str, Tensor]
    """input_ids (N, T) int64, attention_mask, and the model's image inputs."""
    rows: list[PromptRow]


def text_rows(dataset: ShardedDataset, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split without their images."""
    for shard in dataset.split(split).shards:
        with fsspec.open(dataset.path(shard), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=list(TEXT_COLUMNS)):
                yield from batch.to_pylist()


def row_turns(row: dict[str, Any]) -> list[Turn]:
    """The conversation of a stored row."""
    followups = [Turn(turn["prompt"], turn["response"]) for turn in row["followups"]]
    return [Turn(row["prompt"], row["response"]), *followups]


def expected_answer(row: dict[str, Any]) -> str:
    """The label that the last response should name.

    It is the stored response's tagged answer, or its whole text; without a response, the row's answer.
    """
    response = row_turns(row)[-1].response
    return (extract_answer(response) or response) if response else row["answer"] or ""


def row_image(row: dict[str, Any], chat: ChatFormat) -> np.ndarray:
    """The decoded image of a stored row, read from its path if it is not embedded. Raises UserError."""
    try:
        if row["image"] is not None:
            return chat.decode_image(row["image"])
        with fsspec.open(row["path"], "rb") as file:
            return chat.decode_image(file.read())
    except (OSError, BadRow) as error:
        raise UserError(f"image {row['path']} can't be read any more since the data was prepared: {error}") from None


def prompt_rows(table: pa.Table, chat: ChatFormat) -> list[PromptRow]:
    """The rows of an Arrow table as prompts for generation."""
    return [
        PromptRow(
            row["path"], row["prompt"], chat.render_prompt(row_turns(row)), row_image(row, chat), expected_answer(row)
        )
        for row in table.to_pylist()
    ]


class SftCollator:
    """A chunk of rows to batches of similar length, the shortest rows first. Called on several threads."""

    def __init__(self, chat: ChatFormat, batch_size: int, sort: bool) -> None:
        self.chat, self.batch_size, self.sort = chat, batch_size, sort

    def __call__(self, table: pa.Table) -> tuple[SftBatch, ...]:
        rows = table.to_pylist()
        encoded = [self.chat.encode(row_turns(row)) for row in rows]
        images = [row_image(row, self.chat) for row in rows]
        order = list(range(len(rows)))
        if self.sort:
            lengths = [self.chat.estimate_length(text, image) for text, image in zip(encoded, images, strict=True)]
            order.sort(key=lengths.__getitem__)
        groups = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return tuple(
            SftBatch.from_inputs(self.chat.collate([encoded[i] for i in group], [images[i] for i in group]))
            for group in groups
        )


class GenerationCollator:
    """Rows to a batch of prompts for generation. Called on several threads."""

    def __init__(self, chat: ChatFormat) -> None:
        self.chat = chat

    def __call__(self, table: pa.Table) -> PromptBatch:
        rows = prompt_rows(table, self.chat)
        return PromptBatch(self.chat.collate_prompts([row.text for row in rows], [row.image for row in rows]), rows)


class ChatDataLoader:
    """Batches of a sharded data set of questions for one worker."""

    def __init__(
        self, dataset: ShardedDataset, options: BatchOptions, chat: ChatFormat, seed: int, rank: int, world_size: int
    ) -> None:
        self.dataset, self.options, self.chat = dataset, options, chat
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.groups = row_groups(dataset, "train")
        self.batches_per_epoch = -(-self.rows() // options.batch_size)

    def rows(self, earlier: Position = ()) -> int:
        """Rows of an epoch per worker, or of what was left of it after ``earlier``.

        The remainder, fewer than ``world_size`` rows, is dropped, others in each epoch.
        """
        left = self.dataset.split("train").rows - sum(workers * rows for workers, rows in earlier)
        return left // self.world_size

    def step_sizes(self, earlier: Position = ()) -> list[int]:
        """Batches of each optimizer step: ``grad_accum_steps``, or one less in some steps."""
        batches = -(-self.rows(earlier) // self.options.batch_size)
        steps = -(-batches // self.options.grad_accum_steps)
        return [len(part) for part in np.array_split(np.arange(batches), steps)] if batches else []

    def train_batches(self, epoch: int, batch: int = 0, earlier: Position = ()) -> Iterator[SftBatch]:
        """Batches of an epoch from number ``batch`` on, which counts from the end of ``earlier``."""
        chunk_batches = self.options.bucket_batches
        number = batch // chunk_batches
        windows = training_windows(
            self.groups,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            world_size=self.world_size,
            rows=self.rows(earlier),
            skip=number * chunk_batches * self.options.batch_size,
            earlier=earlier,
        )
        collate = SftCollator(self.chat, self.options.batch_size, sort=chunk_batches > 1)
        for chunk in self._batches(windows, collate, chunk_batches * self.options.batch_size):
            order = np.random.default_rng((self.seed, epoch, number)).permutation(len(chunk))
            skip = max(0, batch - number * chunk_batches)
            yield from (chunk[i] for i in order[skip:])
            number += 1

    def val_batches(self, rows: int) -> Iterator[SftBatch]:
        """This worker's shard of the first ``rows`` validation rows, in batches of similar length."""
        chunk_rows = self.options.bucket_batches * self.options.batch_size
        collate = SftCollator(self.chat, self.options.batch_size, sort=True)
        for chunk in self._batches(self._val_windows(rows), collate, chunk_rows):
            yield from chunk

    def val_prompts(self, rows: int, batch_size: int = 8) -> Iterator[PromptBatch]:
        """This worker's shard of the first ``rows`` validation rows, as prompts for generation."""
        yield from self._batches(self._val_windows(rows), GenerationCollator(self.chat), batch_size)

    def _val_windows(self, rows: int) -> Iterator[Window]:
        """Windows over the first rows of the validation split, which was shuffled when it was stored."""
        return sequential_windows(
            row_groups(self.dataset, "val"), rank=self.rank, world_size=self.world_size, limit=rows
        )

    def _batches(self, windows: Iterator[Window], collate: Callable[[pa.Table], Any], batch_size: int) -> Iterator[Any]:
        load = partial(read_window, columns=COLUMNS)
        return iter_batches(windows, load, collate, batch_size=batch_size, threads=self.options.decode_threads)
