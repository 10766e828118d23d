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
from contextlib import nullcontext
from typing import BinaryIO, TextIO

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from fer.data.images import MAX_BYTES
from fer.errors import BadRow, UserError

MAX_SPOOL_BYTES = 4 * 2**30
"""Size limit of a table (CSV) that is extracted or downloaded. FER2013's is 0.3 GB, AffectNet's 0.5 GB."""


class FileTree:
    """The files of a folder or zip, or a single file. ``read`` is thread-safe.

    ``files`` maps their paths relative to the root, sorted, to their sizes in bytes, without hidden files. If a zip
    wraps its folders in one top-level folder, that folder is the root. Raises UserError if the location does not exist
    or can't be read.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._fs, self._root = _open(self.location)
        self.name = posixpath.basename(self._root or self.location)
        self._lock = threading.Lock() if isinstance(self._fs, ZipFileSystem) else nullcontext()
        found = self._fs.find(self._root, detail=True)
        if list(found) == [self._root]:  # a file by itself
            self._root, self.location = posixpath.dirname(self._root), posixpath.dirname(self.location)
        sizes = {path.removeprefix(self._root).lstrip("/"): info["size"] or 0 for path, info in found.items()}
        sizes = {path: size for path, size in sizes.items() if not _hidden(path)}
        self._prefix = _wrapping_folder(sizes) if isinstance(self._fs, ZipFileSystem) else ""
        self.files: dict[str, int] = {path.removeprefix(self._prefix): sizes[path] for path in sorted(sizes)}

    def display_path(self, path: str) -> str:
        """The path for display, prefixed with the name of the folder or zip."""
        return path if path == self.name else f"{self.name}/{self._prefix}{path}"

    def find(self, name: str) -> str | None:
        """Path of the file with this base name, the shallowest if there are several; None if there is none."""
        paths = [path for path in self.files if posixpath.basename(path) == name]
        return min(paths, key=lambda path: (path.count("/"), path), default=None)

    def read(self, path: str) -> bytes:
        """A file's content. Raises BadRow if it is missing, too large (checked first) or damaged in its zip."""
        if path not in self.files:
            raise BadRow("missing file")
        if self.files[path] > MAX_BYTES:
            raise BadRow(f"file of {self.files[path]} bytes, more than {MAX_BYTES}")
        try:
            with self._lock:
                return self._fs.cat_file(self._path(path))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
            raise BadRow("damaged or encrypted zip entry") from None

    def first_line(self, path: str) -> str:
        """First line of a text file, to detect its format."""
        with self._lock, self._open(path) as file:
            return file.readline(4096).decode("utf-8-sig", errors="replace").strip()

    def spool(self, path: str) -> BinaryIO:
        """A file opened locally; one in a zip or at a URI is copied to a temporary file first."""
        if isinstance(self._fs, LocalFileSystem):
            return open(self._path(path), "rb")
        if self.files[path] > MAX_SPOOL_BYTES:
            raise UserError(f"{self.display_path(path)} holds {self.files[path]} bytes, more than {MAX_SPOOL_BYTES}")
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        with self._lock, self._open(path) as file:
            shutil.copyfileobj(file, copy, 2**20)
        copy.seek(0)
        return copy

    def open_text(self, path: str) -> TextIO:
        """A text file opened for the csv module, with or without a byte order mark."""
        return io.TextIOWrapper(self.spool(path), encoding="utf-8-sig", errors="replace", newline="")

    def fingerprint(self) -> str:
        """SHA-256 of the tree's name and of all paths and sizes."""
        digest = hashlib.sha256(self.name.encode())
        for path, size in self.files.items():
            digest.update(f"{path}\0{size}\0".encode())
        return digest.hexdigest()

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, self._prefix + path)

    def _open(self, path: str) -> BinaryIO:
        return self._fs.open(self._path(path), "rb")


def get_filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a local path or URI, and the path in it. Raises UserError for an unknown scheme."""
    try:
        fs, root = fsspec.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise UserError(f"can't open {location}: {error}") from None
    return fs, root.rstrip("/")


def _open(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, root = get_filesystem(location)
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


def _hidden(path: str) -> bool:
    """Hidden files and those that operating systems add: .DS_Store, ._name.jpg, __MACOSX/."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _wrapping_folder(paths: dict[str, int]) -> str:
    """The single top-level folder, with a slash, if it contains all files and has sub-folders; else an empty string."""
    tops = {path.split("/")[0] for path in paths}
    return f"{tops.pop()}/" if len(tops) == 1 and any(path.count("/") > 1 for path in paths) else ""
