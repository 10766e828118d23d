"""The paths and sizes of a data set's files, in a temporary database: a listing of millions needs little memory."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

PAGE = 10_000  # rows that an iteration reads at a time


class FileList(Mapping[str, int]):
    """Relative paths to sizes in bytes, sorted by path. Thread-safe. SQLite writes to disk what exceeds its cache."""

    def __init__(self, files: Iterable[tuple[str, int]]) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.execute("CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID")
        entries = ((encode_path(path), size) for path, size in files)
        self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", entries)
        (self._count,) = self._db.execute("SELECT COUNT(*) FROM files").fetchone()

    def __getitem__(self, path: str) -> int:
        with self._lock:
            found = self._db.execute("SELECT size FROM files WHERE path = ?", (encode_path(path),)).fetchone()
        if found is None:
            raise KeyError(path)
        return int(found[0])

    def __iter__(self) -> Iterator[str]:
        last = b""
        while page := self._page(last):
            yield from (path.decode(errors="surrogateescape") for (path,) in page)
            last = page[-1][0]

    def __len__(self) -> int:
        return self._count

    def _page(self, after: bytes) -> list[tuple[bytes]]:
        with self._lock:
            return self._db.execute(
                "SELECT path FROM files WHERE path > ? ORDER BY path LIMIT ?", (after, PAGE)
            ).fetchall()


def list_files(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[tuple[str, int]]:
    """Path, relative to ``root``, and size of every file below it; never more than one folder or page in memory."""
    if isinstance(fs, LocalFileSystem):
        for path in walk(root):
            with suppress(FileNotFoundError):  # a link to nowhere, or a file that was just removed
                yield os.path.relpath(path, root).replace(os.sep, "/"), os.stat(path).st_size
    elif "s3" in fs.protocol:  # a page of keys at a time; its own `walk` keeps whole folders in memory
        bucket, _, key = root.partition("/")
        page: dict[str, Any] = {"NextContinuationToken": None}
        while "NextContinuationToken" in page:
            token = {"ContinuationToken": page["NextContinuationToken"]} if page["NextContinuationToken"] else {}
            page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", **token)
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # the marker of an empty folder
                    yield entry["Key"].removeprefix(f"{key}/"), entry["Size"]
    else:
        for folder, _, files in fs.walk(root, detail=True):
            for name, info in files.items():
                yield f"{folder}/{name}".removeprefix(root).lstrip("/"), info["size"] or 0


def walk(root: str) -> Iterator[str]:
    """Path of every file below a local folder, in folders that are links too."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not _is_loop(os.path.join(folder, name))]
        yield from (os.path.join(folder, name) for name in names)


def _is_loop(folder: str) -> bool:
    """Whether a folder is a link to one that it is in."""
    return os.path.islink(folder) and any(map(partial(os.path.samefile, folder), Path(folder).absolute().parents))


def encode_path(path: str) -> bytes:
    """File names on Linux need not be UTF-8."""
    return path.encode(errors="surrogateescape")


def printable(text: str) -> str:
    """The text as any file can hold it: bytes of a file name that are not UTF-8 are escaped, such as ``\\udce9``."""
    return text.encode(errors="backslashreplace").decode()
