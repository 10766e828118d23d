"""A read-only file tree: a local folder, a zip file or a URI behind one interface."""

from __future__ import annotations

import hashlib
import io
import posixpath
import shutil
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, BinaryIO, TextIO
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from fer.data.file_list import FileList, encode_path, list_files
from fer.data.images import MAX_BYTES
from fer.errors import BadRow, UserError
from fer.storage import check_access, get_filesystem

SPOOL_CHUNK = 8 * 2**20
MAX_SPOOL_BYTES = 4 * 2**30
"""Size limit of a table (CSV) that is extracted or downloaded. FER2013's is 0.3 GB, AffectNet's 0.5 GB."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""Of a damaged or encrypted entry."""


class FileTree:
    """The files of a folder or zip, or a single file. ``read`` is thread-safe.

    ``files`` maps their paths relative to the root, sorted, to their sizes in bytes, without hidden files. If a zip
    wraps its folders in one top-level folder, that folder is the root. Raises UserError if the location does not exist
    or can't be read. In another process, a tree that was sent there is opened once. It has no ``files``, and reads by
    path only.
    """

    def __init__(self, location: str) -> None:
        self.location, self._id = location.rstrip("/"), uuid4().hex
        self._fs, self._root = _open(self.location)
        self.name = posixpath.basename(self._root or self.location)
        self._lock = self._new_lock()
        if self._fs.isfile(self._root):  # a file by itself
            size = self._fs.size(self._root)
            self._root, self.location = posixpath.dirname(self._root), posixpath.dirname(self.location)
            files = FileList([(self.name, size or 0)])
        else:
            files = FileList(entry for entry in list_files(self._fs, self._root) if not _hidden(entry[0]))
        self._prefix = _wrapping_folder(files) if isinstance(self._fs, ZipFileSystem) else ""
        if self._prefix:
            files = FileList((path.removeprefix(self._prefix), size) for path, size in files.items())
        self.files: Mapping[str, int] = files

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._id, self.location, self.name, self._root, self._prefix)

    def _new_lock(self) -> AbstractContextManager[Any]:
        return threading.Lock() if isinstance(self._fs, ZipFileSystem) else nullcontext()

    def display_path(self, path: str) -> str:
        """The path for display, prefixed with the name of the folder or zip."""
        return path if path == self.name else f"{self.name}/{self._prefix}{path}"

    def find(self, name: str) -> str | None:
        """Path of the file with this base name, the shallowest if there are several; None if there is none."""
        paths = [path for path in self.files if posixpath.basename(path) == name]
        return min(paths, key=lambda path: (path.count("/"), path), default=None)

    def read(self, path: str) -> bytes:
        """A file's content. Raises BadRow if it is missing, too large (checked first) or damaged in its zip."""
        if path.startswith("/") or ".." in path.split("/"):  # a list of images may name any path
            raise BadRow("missing file")
        try:
            with self._lock:
                return self._read(self._path(path))
        except FileNotFoundError:
            raise BadRow("missing file") from None
        except ZIP_ERRORS:
            raise BadRow("damaged or encrypted zip entry") from None

    def _read(self, path: str) -> bytes:
        if isinstance(self._fs, LocalFileSystem | ZipFileSystem):
            size = self._fs.size(path) or 0
            if size > MAX_BYTES:
                raise BadRow(f"file of {size} bytes, more than {MAX_BYTES}")
            return self._fs.cat_file(path)
        return read_limited(self._fs, path)

    def first_line(self, path: str) -> str:
        """First line of a text file, to detect its format. Raises UserError if it is damaged in its zip."""
        with self._lock, self._open(path) as file:
            return file.readline(4096).decode("utf-8-sig", errors="replace").strip()

    def spool(self, path: str) -> BinaryIO:
        """A file opened locally; one in a zip or at a URI is copied to a temporary file first.

        Raises UserError if it is too large, or damaged in its zip.
        """
        if isinstance(self._fs, LocalFileSystem):
            return open(self._path(path), "rb")
        size = self._fs.size(self._path(path)) or 0
        if size > MAX_SPOOL_BYTES:
            raise UserError(f"{self.display_path(path)} holds {size} bytes, more than {MAX_SPOOL_BYTES}")
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        with self._lock, self._open(path) as file:
            shutil.copyfileobj(file, copy, SPOOL_CHUNK)
        copy.seek(0)
        return copy

    def open_text(self, path: str) -> TextIO:
        """A text file opened for the csv module, with or without a byte order mark."""
        return io.TextIOWrapper(self.spool(path), encoding="utf-8-sig", errors="replace", newline="")

    def fingerprint(self, tables: Iterable[str] = ()) -> str:
        """SHA-256 of the tree's name, of all paths and sizes, and of the content of the ``tables``.

        A table of labels keeps its size when a label is corrected.
        """
        digest = hashlib.sha256(encode_path(self.name))
        for path, size in self.files.items():
            digest.update(encode_path(f"{path}\0{size}\0"))
        for path in tables:
            with self.spool(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]  # it has `readinto`
        return digest.hexdigest()

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, self._prefix + path)

    @contextmanager
    def _open(self, path: str) -> Iterator[BinaryIO]:
        try:
            with self._fs.open(self._path(path), "rb") as file:
                yield file
        except ZIP_ERRORS:
            raise UserError(
                f"{self.display_path(path)} is damaged or encrypted: make the zip again, without a password"
            ) from None


@lru_cache(maxsize=8)
def _reopen(id_: str, location: str, name: str, root: str, prefix: str) -> FileTree:
    tree = FileTree.__new__(FileTree)
    tree.location, tree.name, tree._id, tree._root, tree._prefix = location, name, id_, root, prefix
    tree._fs = _open(location)[0]
    tree._lock = tree._new_lock()
    return tree


def _open(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, root = get_filesystem(location)
    check_access(location)
    if not fs.exists(root):
        raise UserError(f"no such file or folder: {location}")
    if not root.lower().endswith(".zip") or not fs.isfile(root):
        return fs, root
    # Random access inside a zip needs a local disk: a remote zip is downloaded once.
    local = root if isinstance(fs, LocalFileSystem) else fsspec.open_local(f"simplecache::{location}")
    try:
        return fsspec.filesystem("zip", fo=local, skip_instance_cache=True), ""
    except zipfile.BadZipFile:
        raise UserError(f"{location} is not a zip file, or it is damaged") from None


def read_limited(fs: fsspec.AbstractFileSystem, path: str) -> bytes:
    """A file's content, up to one byte more than an image may have: whoever checks the image rejects it."""
    try:
        return fs.cat_file(path, start=0, end=MAX_BYTES + 1)  # one request, where asking for the size takes another
    except FileNotFoundError:
        raise
    except OSError:
        if fs.size(path) == 0:  # S3 has no range of an empty object
            return b""
        raise


def _hidden(path: str) -> bool:
    """Hidden files and those that operating systems add: .DS_Store, ._name.jpg, __MACOSX/."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _wrapping_folder(paths: Iterable[str]) -> str:
    """The single top-level folder, with a slash, if it contains all files and has sub-folders; else an empty string."""
    tops, depth = set(), 0
    for path in paths:
        tops.add(path.split("/")[0])
        depth = max(depth, path.count("/"))
    return f"{tops.pop()}/" if len(tops) == 1 and depth > 1 else ""
