"""Batches of conversations: rows from shards in training order, cut into batches of like length.

Rows come in chunks of ``bucket_batches`` batches. A chunk is sorted by length and cut, and its batches are put in an
order that all workers share: they wait for each other at every step, so theirs should be of one length too. A batch's
number tells which rows are in it, so a position in the epoch is a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from fer.answers import extract_answer
from fer.data.manifest import ShardedDataset
from fer.data.stream.reader import iter_batches, read_window
from fer.data.stream.sampler import Window, row_groups, sequential_windows, training_windows
from fer.data.vqa.questions import Turn
from fer.errors import BadRow, UserError
from fer.vlm.chat import IGNORE_INDEX, ChatFormat
from fer.vlm.options import BatchOptions

COLUMNS = ("image", "path", "prompt", "response", "answer", "candidate_labels", "followups")


@dataclass(frozen=True)
class Batch:
    """Padded conversations as model inputs; counts of what is in them."""

    inputs: dict[str, Tensor]
    """input_ids and labels (N, T) int64, attention_mask, and what the model wants of the images."""
    rows: int
    tokens: int
    """Tokens that are not padding."""
    learned: int
    """Tokens that carry loss, of those the model predicts (not the first of a row)."""

    @classmethod
    def of(cls, inputs: dict[str, Tensor]) -> Batch:
        return cls(
            inputs,
            rows=len(inputs["input_ids"]),
            tokens=int(inputs["attention_mask"].sum()),
            learned=int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum()),
        )

    @property
    def padding(self) -> float:
        """Share of the batch's places that hold no token."""
        return 1 - self.tokens / self.inputs["input_ids"].numel()


@dataclass(frozen=True)
class Asked:
    """Questions to be answered, and the labels that the answers should name."""

    inputs: dict[str, Tensor]
    paths: list[str]
    prompts: list[str]
    answers: list[str]


def row_turns(row: dict[str, Any]) -> list[Turn]:
    """The conversation of a stored row."""
    others = [Turn(turn["prompt"], turn["response"]) for turn in row["followups"]]
    return [Turn(row["prompt"], row["response"]), *others]


def expected_answer(row: dict[str, Any]) -> str:
    """The label that the last turn should name: its response's tagged answer or whole text; else the row's answer."""
    response = row_turns(row)[-1].response
    return (extract_answer(response) or response) if response else row["answer"] or ""


def row_image(row: dict[str, Any], chat: ChatFormat) -> np.ndarray:
    """The pixels of a stored row's image, read from where it lies if the shards only name it. Raises UserError."""
    try:
        if row["image"] is not None:
            return chat.decode_image(row["image"])
        with fsspec.open(row["path"], "rb") as file:
            return chat.decode_image(file.read())
    except (OSError, BadRow) as error:
        raise UserError(f"image {row['path']} was there when the data was prepared, and now: {error}") from None


class CollateTraining(ArrowBatchCollateFn):
    """A chunk of rows to batches of like length, shortest first. Called on several threads."""

    def __init__(self, chat: ChatFormat, batch_size: int, sort: bool) -> None:
        self.chat, self.batch_size, self.sort = chat, batch_size, sort

    def __call__(self, table: pa.Table) -> tuple[Batch, ...]:  # type: ignore[override]
        rows = table.to_pylist()
        encoded = [self.chat.encode(row_turns(row)) for row in rows]
        images = [row_image(row, self.chat) for row in rows]
        order = list(range(len(rows)))
        if self.sort:
            lengths = [self.chat.estimate_length(text, image) for text, image in zip(encoded, images, strict=True)]
            order.sort(key=lengths.__getitem__)
        groups = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return tuple(
            Batch.of(self.chat.collate([encoded[i] for i in group], [images[i] for i in group])) for group in groups
        )


class CollateQuestions(ArrowBatchCollateFn):
    """Rows to prompts for generation: the last turn's question, after the turns before it."""

    def __init__(self, chat: ChatFormat) -> None:
        self.chat = chat

    def __call__(self, table: pa.Table) -> Asked:  # type: ignore[override]
        rows = table.to_pylist()
        prompts = [self.chat.render_prompt(row_turns(row)) for row in rows]
        inputs = self.chat.collate_prompts(prompts, [row_image(row, self.chat) for row in rows])
        expected = [expected_answer(row) for row in rows]
        return Asked(inputs, [row["path"] for row in rows], [row["prompt"] for row in rows], expected)


class ChatDataLoader:
    """One worker's batches of a data set of questions."""

    def __init__(
        self, dataset: ShardedDataset, options: BatchOptions, chat: ChatFormat, seed: int, rank: int, workers: int
    ) -> None:
        self.dataset, self.options, self.chat = dataset, options, chat
        self.seed, self.rank, self.workers = seed, rank, workers
        self.groups = row_groups(dataset, "train")
        self.rows_per_epoch = dataset.split("train").rows // workers
        """Rows of each worker; fewer than ``workers`` rows are left out, others in each epoch."""
        self.batches_per_epoch = -(-self.rows_per_epoch // options.batch_size)

    def step_sizes(self) -> list[int]:
        """Batches in each optimizer step of an epoch: ``grad_accum_steps``, or one less where they don't come out."""
        steps = -(-self.batches_per_epoch // self.options.grad_accum_steps)
        return [len(part) for part in np.array_split(np.arange(self.batches_per_epoch), steps)]

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The epoch's batches from number ``first`` on."""
        per_chunk = self.options.bucket_batches
        number = first // per_chunk
        windows = training_windows(
            self.groups,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            world_size=self.workers,
            rows=self.rows_per_epoch,
            skip=number * per_chunk * self.options.batch_size,
        )
        collate = CollateTraining(self.chat, self.options.batch_size, sort=per_chunk > 1)
        for chunk in self._stream(windows, collate, per_chunk * self.options.batch_size):
            order = np.random.default_rng((self.seed, epoch, number)).permutation(len(chunk))
            skip = max(0, first - number * per_chunk)
            yield from (chunk[i] for i in order[skip:])
            number += 1

    def validation(self, rows: int) -> Iterator[Batch]:
        """This worker's share of about ``rows`` validation rows, as batches of like length."""
        per_chunk = self.options.bucket_batches * self.options.batch_size
        collate = CollateTraining(self.chat, self.options.batch_size, sort=True)
        for chunk in self._stream(self._share(rows), collate, per_chunk):
            yield from chunk

    def questions(self, rows: int, batch_size: int = 8) -> Iterator[Asked]:
        """This worker's share of about ``rows`` validation rows, as questions."""
        yield from self._stream(self._share(rows), CollateQuestions(self.chat), batch_size)

    def _share(self, rows: int) -> Iterator[Window]:
        """Windows over the first rows of the validation split; they were shuffled when they were stored."""
        return sequential_windows(row_groups(self.dataset, "val"), rank=self.rank, world_size=self.workers, limit=rows)

    def _stream(self, windows: Iterator[Window], collate: ArrowBatchCollateFn, batch_size: int) -> Iterator[Any]:
        load = partial(read_window, columns=COLUMNS)
        return iter_batches(windows, load, collate, batch_size=batch_size, threads=self.options.decode_threads)
