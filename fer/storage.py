"""Storage: local and NFS paths, and the URIs of object stores (s3://, gs://), all reached in the same way.

Credentials and the endpoint of S3 come from the usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL) or the machine's role, as in every client of S3.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fer.errors import UserError

if TYPE_CHECKING:
    from upath import UPath

# Exact ranges, where s3fs would read 50 MB ahead; and no remembered listings: other processes write, too.
fsspec.config.conf.setdefault("s3", {}).update(default_cache_type="none", use_listings_cache=False)

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferry" / "models"
"""Folders that were downloaded."""
PARTIAL = ".partial"
"""What is added to the name of a file while `write_atomically` writes it."""


def is_uri(location: str) -> bool:
    return "://" in location


def absolute(location: str) -> str:
    """The location for processes with another working directory."""
    return location.rstrip("/") if is_uri(location) else str(Path(location).absolute())


def get_filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a local path or URI, and the path in it. Raises UserError for an unknown scheme."""
    try:
        fs, path = fsspec.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise UserError(f"can't open {location}: {error}") from None
    return fs, path.rstrip("/")


def open_path(location: str) -> UPath:
    """A local path, or a URI with the same methods. Raises UserError for an unknown scheme."""
    from upath import UPath

    get_filesystem(location)
    return UPath(location)


def write_atomically(path: Path | UPath, text: str) -> None:
    """Write a file so that readers see either the old content or the new."""
    if not isinstance(path, Path):  # an object appears when it is complete
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def check_access(location: str) -> None:
    """Raise UserError if a storage can't be reached, or refuses the credentials."""
    fs, path = get_filesystem(location)
    if isinstance(fs, LocalFileSystem):
        return
    bucket = path.partition("/")[0]
    try:
        if not fs.exists(path):
            with suppress(PermissionError):  # of the bucket as a whole
                fs.info(bucket)
    except FileNotFoundError:
        raise UserError(f"{location}: there is no bucket {bucket!r}") from None
    except Exception as error:  # each object store raises errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{location} can't be reached ({reason}); credentials are read from AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and the address of an S3 server other than Amazon's from AWS_ENDPOINT_URL"
        ) from None


def fetch_folder(location: str) -> Path:
    """A local folder with the files of ``location``: the folder itself, or a download that is kept in the cache."""
    if not is_uri(location):
        return Path(location)
    fs, root = get_filesystem(location)
    files = {path: _version(info) for path, info in sorted(fs.find(root, detail=True).items())}
    folder = CACHE / hashlib.sha256(f"{location} {files}".encode()).hexdigest()[:24]
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            for path in files:
                name = path.removeprefix(root).lstrip("/")
                if ".." in name.split("/"):
                    raise UserError(f"{location} has an object {name!r}, which no folder could hold")
                copy = Path(scratch) / "copy" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(path, str(copy))
            move_folder(Path(scratch) / "copy", folder)
    return folder


def move_folder(copy: Path, folder: Path) -> None:
    """Move a complete download into place, unless another process was first with the same files."""
    try:
        copy.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def upload_folder(folder: Path, location: str) -> None:
    """Copy the files of a local folder to ``location``, which is created."""
    fs, root = get_filesystem(location)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = f"{root}/{file.relative_to(folder).as_posix()}"
        fs.makedirs(posixpath.dirname(target), exist_ok=True)
        fs.put_file(str(file), target)


@contextmanager
def writable_folder(location: str) -> Iterator[Path]:
    """The local folder ``location``; or one whose files are copied to that URI when the block succeeds."""
    if not is_uri(location):
        yield Path(location)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        upload_folder(Path(scratch), location)


@contextmanager
def local_file(location: str) -> Iterator[Path]:
    """A local copy of a file during the block; a local file is itself."""
    if not is_uri(location):
        yield Path(location)
        return
    fs, path = get_filesystem(location)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / posixpath.basename(path)
        fs.get_file(path, str(copy))
        yield copy


def ray_storage(location: str) -> dict[str, Any]:
    """The arguments ``storage_path`` and ``storage_filesystem`` of Ray Train's and Ray Tune's RunConfig."""
    if not is_uri(location):
        return {"storage_path": location}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, path = get_filesystem(location)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(fs))}


def remove_folder(location: str) -> None:
    """Remove a folder and what is in it, if it exists."""
    fs, path = get_filesystem(location)
    if isinstance(fs, LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
    elif fs.exists(path):
        fs.rm(path, recursive=True)


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or info.get("created") or info.get("size"))
