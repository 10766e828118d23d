"""Parquet shards: small row groups, one in memory at a time, in a folder that appears only when it is complete."""

from __future__ import annotations

import math
import os
import posixpath
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from fer.data.manifest import MANIFEST, REJECTED_ROWS, Shard, ShardedDataset, Split
from fer.data.row_sample import RowSample, row_hash
from fer.data.schema import FACE_SCHEMA
from fer.errors import UserError
from fer.storage import PARTIAL, get_filesystem

GROUP_ROWS = 512
GROUP_BYTES = 4 * 2**20
"""Limits of a row group. Training reads row groups in random order, so small ones shuffle better."""


class ShardWriter:
    """Writes rows of a split to ``split=NAME/part-00000.parquet`` and so on, with one row group in memory.

    The first file has the number ``first``. Without ``shard_bytes``, there is one.
    """

    def __init__(
        self,
        fs: fsspec.AbstractFileSystem,
        root: str,
        split: str,
        schema: pa.Schema,
        shard_bytes: float = math.inf,
        first: int = 0,
    ) -> None:
        self._fs, self._root, self._split, self._schema, self._shard_bytes = fs, root, split, schema, shard_bytes
        self._first = first
        # A file on local disk appears when it is complete; an object does anyway.
        self._suffix = f".partial-{os.getpid()}" if isinstance(fs, LocalFileSystem) else ""
        self._shards: list[Shard] = []
        self._counts: Counter[str] = Counter()
        self._with_votes = self._with_affect = 0
        self._sample = RowSample()
        self._file: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._group: list[dict[str, Any]] = []
        self._group_bytes = self._written = 0

    def add(self, values: Mapping[str, Any], label: str, size: int) -> None:
        """Add a row of about ``size`` bytes, counted under ``label``."""
        self._counts[label] += 1
        self._with_votes += values.get("votes") is not None
        self._with_affect += values.get("valence") is not None and values.get("arousal") is not None
        if self._schema is FACE_SCHEMA:
            self._sample.add(row_hash(values["path"], values["image"]))
        self._group.append(dict(values))
        self._group_bytes += size
        if len(self._group) == GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
            self._flush()
        if self._written >= self._shard_bytes:
            self._end_shard()

    def close(self) -> Split:
        self._flush()
        self._end_shard()
        return Split(
            shards=self._shards,
            counts=dict(sorted(self._counts.items())),
            with_votes=self._with_votes,
            with_affect=self._with_affect,
            sample=self._sample.encode(),
        )

    def _flush(self) -> None:
        if not self._group:
            return
        if self._writer is None:
            self._begin_shard()
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._shards[-1].row_groups.append(len(self._group))
        self._written += self._group_bytes
        self._group, self._group_bytes = [], 0

    def _begin_shard(self) -> None:
        path = f"split={self._split}/part-{self._first + len(self._shards):05d}.parquet"
        self._fs.makedirs(f"{self._root}/split={self._split}", exist_ok=True)
        self._file = self._fs.open(f"{self._root}/{path}{self._suffix}", "wb")
        # Images are compressed already; a dictionary or statistics of them would only add bytes.
        repeated = [name for name in ("label", "group", "prompt", "answer") if name in self._schema.names]
        self._writer = pq.ParquetWriter(
            self._file, self._schema, compression="none", use_dictionary=repeated, write_statistics=repeated
        )
        self._shards.append(Shard(path=path, row_groups=[]))
        self._written = 0

    def _end_shard(self) -> None:
        if self._writer is not None and self._file is not None:
            self._writer.close()
            self._file.close()
            if self._suffix:
                path = f"{self._root}/{self._shards[-1].path}"
                os.replace(path + self._suffix, path)
        self._writer = self._file = None
        self._written = 0


UNFINISHED = "unfinished"
"""Folder in the output with a record of each finished shard, while the others are being written."""


def open_shard(path: str, pre_buffer: bool = False) -> pq.ParquetFile:
    """Open a shard for reading exact ranges. ``pre_buffer`` joins the ranges of a read, which is then held in memory.

    The metadata of remote shards are read once in each process: they are much of what a small row group costs.
    """
    fs, inner = get_filesystem(path)
    if isinstance(fs, LocalFileSystem):
        return pq.ParquetFile(inner)
    info = fs.info(inner)
    file = fs.open(inner, "rb", cache_type="none", size=info["size"])
    return pq.ParquetFile(file, pre_buffer=pre_buffer, metadata=_metadata(path, str(info.get("ETag", info))))


@lru_cache(maxsize=256)
def _metadata(path: str, version: str) -> pq.FileMetaData:
    fs, inner = get_filesystem(path)
    with fs.open(inner, "rb", cache_type="none") as file:
        return pq.read_metadata(file)


@contextmanager
def staged_output(out: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """A file system and a folder to write to, which replaces ``out`` when the block succeeds.

    On local disk it is a sibling of ``out`` that is renamed at the end, or removed if the block fails. Object stores
    can't rename, so there the folder is ``out`` itself; it is complete once the manifest, written last, exists.
    """
    fs, final = get_filesystem(out)
    if not isinstance(fs, LocalFileSystem):
        remove_shards(fs, final)
        yield fs, final
        return
    partial = f"{final}.partial-{os.getpid()}"
    remove_shards(fs, partial)
    fs.makedirs(partial)
    try:
        yield fs, partial
        remove_shards(fs, final)
        os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_shards(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Remove a folder, manifest first, so that an interrupted removal does not leave a complete-looking folder."""
    if fs.exists(f"{folder}/{MANIFEST}"):
        fs.rm(f"{folder}/{MANIFEST}")
    if fs.exists(folder):
        fs.rm(folder, recursive=True)


def cache_path(cache: str, data: str, input_hash: str) -> str:
    """Folder in ``cache`` for the shards of the data set ``data``: its name, and the first digits of the hash."""
    stem = posixpath.splitext(posixpath.basename(get_filesystem(data)[1]))[0]
    name = re.sub(r"[^\w.-]+", "-", stem) or "data"
    return f"{cache.rstrip('/')}/{name}-{input_hash[:12]}"


def is_sharded(location: str) -> bool:
    """Whether a location is a folder of shards."""
    fs, root = get_filesystem(location)
    return fs.exists(f"{root}/{MANIFEST}")


def is_prepared(out: str, input_hash: str, overwrite: bool) -> bool:
    """Whether ``out`` contains the shards of these inputs, which ``overwrite`` replaces like any others.

    Raises UserError if it contains anything else.
    """
    fs, root = get_filesystem(out)
    if is_sharded(out) and not overwrite:
        if ShardedDataset(out).manifest.input_hash == input_hash:
            return True
        raise UserError(f"{out} contains shards of other data or options: choose another --out, or --overwrite")
    held = [posixpath.basename(path.rstrip("/")) for path in fs.ls(root, detail=False)] if fs.isdir(root) else []
    ours = (MANIFEST, f"{MANIFEST}{PARTIAL}", REJECTED_ROWS, UNFINISHED)
    if fs.isfile(root) or any(not name.startswith("split=") and name not in ours for name in held):
        raise UserError(f"{out} contains other files than shards: choose another --out")
    return False
