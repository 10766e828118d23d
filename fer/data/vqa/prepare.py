"""`fer prepare --format vqa`: from a file of questions and a root of images to shuffled Parquet shards.

Rows are laid down in a scratch file as they are read, and written from there in shuffled order: memory holds a few
bytes of each, however long their answers are.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import fsspec
import numpy as np
from tqdm import tqdm

from fer.data.filesystem import locate
from fer.data.manifest import MANIFEST, QUARANTINE, Manifest, ShardedDataset, Split
from fer.data.options import PrepareOptions, QuestionOptions
from fer.data.rejected import Quarantine
from fer.data.schema import SPLITS, FaceRow
from fer.data.shards import ShardWriter, holds_shards, is_done, staged
from fer.data.splits import assign
from fer.data.stream.prefetch import load_image, read_ahead
from fer.data.vqa.questions import QUESTION_SCHEMA, ImageRoot, Question, Turn, read_questions
from fer.errors import BadRow, UserError

UNANSWERED = "(no label)"
"""What rows without a label are counted under."""


def prepare_questions(options: PrepareOptions) -> ShardedDataset:
    """Write the questions' shards to ``options.out``, or say that they are there already.

    Raises UserError for a file that can't be read, too many bad rows, or an ``out`` that holds something else.
    """
    request = _request(options)
    if is_done(options.out, request, options.overwrite):
        print(f"{options.out} holds these questions already: nothing to do", flush=True)
        return ShardedDataset(options.out)
    images = ImageRoot(options.image_root or posixpath.dirname(options.data) or posixpath.curdir)
    quarantine = Quarantine(options)
    with tempfile.TemporaryFile() as scratch:
        rows = _Rows(scratch, options, quarantine)
        quarantine.refuse_if_too_much()
        with staged(options.out) as (fs, root):
            splits, content_hash = _write(fs, root, rows, images, quarantine, options)
            quarantine.refuse_if_too_much()
            quarantine.write(fs, f"{root}/{QUARANTINE}")
            labels = sorted({label for split in splits.values() for label in split.counts})
            manifest = Manifest(
                kind="questions",
                source=options.data,
                format="vqa",
                label_space="answers",
                labels=labels,
                splits=splits,
                set_aside=quarantine.counts,
                content_hash=content_hash,
                request=request,
            )
            with fs.open(f"{root}/{MANIFEST}", "w") as file:
                file.write(manifest.model_dump_json(indent=2))
    quarantine.clear()
    return ShardedDataset(options.out)


def open_questions(options: QuestionOptions, cache: str) -> ShardedDataset:
    """Open shards of questions, or prepare a file of them into a folder of ``cache`` once and open that."""
    if holds_shards(options.data):
        dataset = ShardedDataset(options.data)
        if dataset.manifest.kind != "questions":
            raise UserError(f"{options.data} holds faces without questions: make some with `fer questions`")
        return dataset
    if not options.data.lower().endswith((".json", ".jsonl")):
        raise UserError(
            f"{options.data} is neither shards of questions nor a .json or .jsonl file of them; from a data set of "
            f"faces, `fer questions --data {options.data} --out questions.jsonl` makes one"
        )
    chosen = options.model_dump(include=set(QuestionOptions.model_fields))
    request = _request(PrepareOptions(**chosen, out=cache))
    stem = posixpath.splitext(posixpath.basename(locate(options.data)[1]))[0]
    name = re.sub(r"[^\w.-]+", "-", stem) or "questions"
    out = f"{cache.rstrip('/')}/{name}-{request[:12]}"
    return prepare_questions(PrepareOptions(**chosen, format="vqa", out=out))


class _Rows:
    """The good rows of a file: where each lies in the scratch file, and its split."""

    def __init__(self, scratch: BinaryIO, options: PrepareOptions, quarantine: Quarantine) -> None:
        self.scratch = scratch
        offsets, keys = [], []
        for number, row in enumerate(read_questions(options.data), 1):
            quarantine.candidates += 1
            if isinstance(row, BadRow):
                quarantine.add(f"{options.data}, row {number}", str(row), bad=True)
                continue
            offsets.append(scratch.tell())
            scratch.write(json.dumps([row.path, [[t.prompt, t.response] for t in row.turns], row.answer,
                                      row.candidate_labels]).encode() + b"\n")  # fmt: skip
            # All questions about one image stay in one split.
            keys.append(FaceRow(f"{number}", row.answer or UNANSWERED, read=bytes, group=row.path))
        self.offsets = offsets
        self.splits = assign(keys, val_split=options.val_split, test_split=options.test_split, seed=options.split_seed)

    def of(self, split: str, seed: tuple[int, ...]) -> Iterator[Question]:
        """The split's rows, shuffled."""
        members = [offset for offset, its in zip(self.offsets, self.splits, strict=True) if its == split]
        for i in np.random.default_rng(seed).permutation(len(members)):
            self.scratch.seek(members[i])
            path, turns, answer, labels = json.loads(self.scratch.readline())
            yield Question(path, tuple(Turn(*turn) for turn in turns), answer, tuple(labels))


def _write(
    fs: fsspec.AbstractFileSystem,
    root: str,
    rows: _Rows,
    images: ImageRoot,
    quarantine: Quarantine,
    options: PrepareOptions,
) -> tuple[dict[str, Split], str]:
    written: dict[str, Split] = {}
    total = 0
    progress = tqdm(total=len(rows.offsets), desc="prepare", unit=" rows", disable=None)

    def load(row: Question) -> bytes | BadRow:
        return load_image(partial(images.read, row.path))

    with progress:
        for number, split in enumerate(SPLITS):
            writer = ShardWriter(fs, root, split, QUESTION_SCHEMA, options.shard_mb * 2**20)
            for row, image in read_ahead(load, rows.of(split, (options.split_seed, number))):
                progress.update()
                if isinstance(image, BadRow):
                    quarantine.add(row.path, str(image), bad=True)
                    continue
                values = row.columns() | {"image": image if options.embed_images else None}
                if not options.embed_images:
                    values["path"] = images.locate(row.path)
                text = json.dumps([split, row.columns()], sort_keys=True).encode()
                writer.add(values, row.answer or UNANSWERED, len(text) + (len(image) if options.embed_images else 0))
                # A sum does not depend on the order, so nothing needs to be kept and sorted.
                total += int.from_bytes(hashlib.sha256(text + image).digest())
            done = writer.close()
            if done.rows:
                written[split] = done
    return written, f"{total % 2**256:064x}"


def _request(options: PrepareOptions) -> str:
    fs, path = locate(options.data)
    if not fs.isfile(path):
        raise UserError(f"no such file: {options.data}")
    with fs.open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    chosen = options.model_dump(exclude={"data", "format", "out", "overwrite", "label_space"})
    facts = [content, chosen]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
