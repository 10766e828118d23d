"""Model files that Ferry does not contain: where they are published, and their download into the cache folder."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from fer.errors import UserError

TIMEOUT = 30  # seconds without an answer
CHUNK = 64 * 2**10  # bytes


@dataclass(frozen=True)
class ModelFile:
    """A published file, and the option that takes it from another place."""

    address: str
    size: int
    """In bytes."""
    sha256: str
    option: str

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]


MODEL_FILES = {
    # From the OpenCV Zoo (MIT licence), which keeps its models in Git LFS; `sha256` is the pointer's object id.
    "yunet": ModelFile(
        "https://media.githubusercontent.com/media/opencv/opencv_zoo/47534e27c9851bb1128ccc0102f1145e27f23f98/"
        "models/face_detection_yunet/face_detection_yunet_2026may.onnx",
        size=229_738,
        sha256="ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
        option="--detector-model",
    ),
}
"""The files of `fer fetch`, by the name that it takes."""


def cache_folder() -> Path:
    """Folder of downloaded model files: FER_CACHE, else ~/.cache/ferry."""
    return Path(os.environ.get("FER_CACHE") or Path.home() / ".cache" / "ferry")


def download(name: str) -> Path:
    """The path of a file of `MODEL_FILES` in the cache folder; it is downloaded unless it is there already.

    What has arrived when a download is interrupted stays in a `.part` file, which the next call continues. Raises
    UserError for an unknown name, and if the file can't be downloaded or is not the published one.
    """
    if name not in MODEL_FILES:
        raise UserError(f"no model file {name!r}; known: {', '.join(MODEL_FILES)}")
    file = MODEL_FILES[name]
    target = cache_folder() / file.name
    if target.is_file() and _sha256(target) == file.sha256:
        return target
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _receive(file, partial)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"can't download {file.address} ({_reason(error)}): try again later, copy the file into {target.parent}, "
            f"or give its path with {file.option}"
        ) from None
    if (size := partial.stat().st_size) < file.size:
        raise UserError(f"the connection ended after {size} of {file.size} bytes: `fer fetch {name}` continues")
    if _sha256(partial) != file.sha256:
        partial.unlink()
        raise UserError(f"what {file.address} sent is not the published file (its SHA-256 differs), and was deleted")
    partial.replace(target)
    return target


def _receive(file: ModelFile, partial: Path) -> None:
    """Append to ``partial`` what it lacks of the file; it gets hardly more than the file's size, whatever is sent."""
    start = partial.stat().st_size if partial.exists() else 0
    if start >= file.size:
        return  # ended between the last byte and the check
    request = Request(file.address, headers={"Range": f"bytes={start}-"})
    with urlopen(request, timeout=TIMEOUT) as answer:
        continues = answer.status == HTTPStatus.PARTIAL_CONTENT  # a server without ranges sends the whole file
        with partial.open("ab" if continues else "wb") as out:
            while out.tell() <= file.size and (chunk := answer.read(CHUNK)):
                out.write(chunk)


def _reason(error: Exception) -> str:
    cause = error.reason if type(error) is URLError else error
    return getattr(cause, "strerror", None) or str(cause)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
