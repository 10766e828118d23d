"""`fer prepare --format vqa`: from a file of questions and a folder of images to shuffled Parquet shards.

Rows are copied to a temporary file as they are read, and shuffled from there: memory holds only a few bytes per row,
however long the responses are.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import fsspec
import numpy as np
from tqdm import tqdm

from fer.data.manifest import MANIFEST, REJECTED_ROWS, Manifest, ShardedDataset, Split
from fer.data.options import PrepareOptions, QuestionOptions
from fer.data.rejected import RejectedRows
from fer.data.schema import SPLITS, FaceRow
from fer.data.shards import ShardWriter, cache_path, is_prepared, is_sharded, staged_output
from fer.data.splits import assign_splits
from fer.data.stream.prefetch import prefetch, read_verified
from fer.data.vqa.questions import QUESTION_SCHEMA, ImageRoot, Question, Turn, read_questions
from fer.errors import BadRow, UserError
from fer.storage import get_filesystem

UNLABELLED = "(no label)"
"""The label under which rows without one are counted."""


def prepare_questions(options: PrepareOptions) -> ShardedDataset:
    """Write the shards of a file of questions to ``options.out``, unless they exist already.

    Raises UserError for an unreadable file, too many bad rows, or an ``out`` with other content.
    """
    images = _open_images(options)
    return _prepare(options, images, _input_hash(options, images))


def _prepare(options: PrepareOptions, images: ImageRoot, input_hash: str) -> ShardedDataset:
    if is_prepared(options.out, input_hash, options.overwrite):
        print(f"{options.out} is up to date", flush=True)
        return ShardedDataset(options.out)
    rejected = RejectedRows(options)
    with tempfile.TemporaryFile() as spool:
        rows = _SpooledRows(spool, options, rejected)
        rejected.check_bad_fraction()
        with staged_output(options.out) as (fs, root):
            splits, content_hash = _write(fs, root, rows, images, rejected, options)
            rejected.check_bad_fraction()
            rejected.write(fs, f"{root}/{REJECTED_ROWS}")
            labels = sorted({label for split in splits.values() for label in split.counts})
            manifest = Manifest(
                kind="questions",
                source=options.data,
                format="vqa",
                label_space="answers",
                labels=labels,
                splits=splits,
                rejected=rejected.counts,
                content_hash=content_hash,
                input_hash=input_hash,
            )
            with fs.open(f"{root}/{MANIFEST}", "w") as file:
                file.write(manifest.model_dump_json(indent=2))
    rejected.remove_stale()
    return ShardedDataset(options.out)


def open_questions(options: QuestionOptions, cache: str) -> ShardedDataset:
    """Open shards of questions, or prepare a file of questions once in a folder of ``cache`` and open that."""
    if is_sharded(options.data):
        dataset = ShardedDataset(options.data)
        if dataset.manifest.kind != "questions":
            raise UserError(f"{options.data} holds faces, not questions: build questions with `fer questions`")
        return dataset
    if not options.data.lower().endswith((".json", ".jsonl")):
        raise UserError(
            f"{options.data} is neither shards of questions nor a .json or .jsonl file of them; build one from a data "
            f"set of faces with `fer questions --data {options.data} --out questions.jsonl`"
        )
    shared = options.model_dump(include=set(QuestionOptions.model_fields))
    images = _open_images(options)
    input_hash = _input_hash(PrepareOptions(**shared, out=cache), images)
    out = cache_path(cache, options.data, input_hash)
    return _prepare(PrepareOptions(**shared, format="vqa", out=out), images, input_hash)


class _SpooledRows:
    """The valid rows of a file: the offset of each in the temporary file, and its split."""

    def __init__(self, spool: BinaryIO, options: PrepareOptions, rejected: RejectedRows) -> None:
        self.spool = spool
        offsets, keys = [], []
        for number, row in enumerate(read_questions(options.data), 1):
            rejected.candidates += 1
            if isinstance(row, BadRow):
                rejected.add(f"{options.data}, row {number}", str(row), bad=True)
                continue
            offsets.append(spool.tell())
            spool.write(json.dumps([row.path, [[t.prompt, t.response] for t in row.turns], row.answer,
                                      row.candidate_labels]).encode() + b"\n")  # fmt: skip
            # All questions about one image stay in one split.
            keys.append(FaceRow(f"{number}", row.answer or UNLABELLED, read=bytes, group=row.path))
        self.offsets = offsets
        self.splits = assign_splits(
            keys, val_split=options.val_split, test_split=options.test_split, seed=options.split_seed
        )

    def shuffled(self, split: str, seed: tuple[int, ...]) -> Iterator[Question]:
        """The rows of a split, shuffled."""
        members = [offset for offset, name in zip(self.offsets, self.splits, strict=True) if name == split]
        for i in np.random.default_rng(seed).permutation(len(members)):
            self.spool.seek(members[i])
            path, turns, answer, labels = json.loads(self.spool.readline())
            yield Question(path, tuple(Turn(*turn) for turn in turns), answer, tuple(labels))


def _write(
    fs: fsspec.AbstractFileSystem,
    root: str,
    rows: _SpooledRows,
    images: ImageRoot,
    rejected: RejectedRows,
    options: PrepareOptions,
) -> tuple[dict[str, Split], str]:
    written: dict[str, Split] = {}
    total = 0
    progress = tqdm(total=len(rows.offsets), desc="prepare", unit=" rows", disable=None)

    def load(row: Question) -> bytes | BadRow:
        return read_verified(partial(images.read, row.path))

    with progress:
        for number, split in enumerate(SPLITS):
            writer = ShardWriter(fs, root, split, QUESTION_SCHEMA, options.shard_mb * 2**20)
            for row, image in prefetch(load, rows.shuffled(split, (options.split_seed, number))):
                progress.update()
                if isinstance(image, BadRow):
                    rejected.add(row.path, str(image), bad=True)
                    continue
                values = row.columns() | {"image": image if options.embed_images else None}
                if not options.embed_images:
                    values["path"] = images.locate(row.path)
                text = json.dumps([split, row.columns()], sort_keys=True).encode()
                writer.add(values, row.answer or UNLABELLED, len(text) + (len(image) if options.embed_images else 0))
                # A sum of hashes does not depend on the order of the rows.
                total += int.from_bytes(hashlib.sha256(text + image).digest())
            done = writer.close()
            if done.rows:
                written[split] = done
    return written, f"{total % 2**256:064x}"


def _open_images(options: QuestionOptions) -> ImageRoot:
    fs, path = get_filesystem(options.data)
    if not fs.isfile(path):
        raise UserError(f"no such file: {options.data}")
    return ImageRoot(options.image_root or posixpath.dirname(options.data) or posixpath.curdir)


def _input_hash(options: PrepareOptions, images: ImageRoot) -> str:
    fs, path = get_filesystem(options.data)
    with fs.open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    paths = (row.path for row in read_questions(options.data) if isinstance(row, Question))
    settings = options.model_dump(include={"embed_images", "shard_mb", "val_split", "test_split", "split_seed"})
    inputs = json.dumps([content, images.fingerprint(paths), settings], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()
