"""Question rows (a face, a prompt about it, and the answer), and reading files of them.

UniFER (arXiv 2511.00389) publishes three forms, as JSON arrays or JSON lines, which Ferry reads and writes:

    SFT        {image_path, question, response}
    GRPO       {image_path, problem, solution}
    FERBench   {image_path, prompt, true_label, candidate_labels}

Ferry adds a fourth, for conversations of several turns: ``{image_path, turns: [{question, response}, ...]}``.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ijson
import pyarrow as pa

from fer.answers import extract_answer
from fer.data.file_list import encode_path, printable
from fer.data.filesystem import FileTree
from fer.errors import BadRow, UserError
from fer.storage import absolute, get_filesystem

CHUNK = 2**20
"""Bytes of a file of questions that are read at a time."""

_TURN = pa.struct([pa.field("prompt", pa.string(), nullable=False), pa.field("response", pa.string())])

# One Parquet row. `image` is null if images are not embedded; every worker can then open `path`.
QUESTION_SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("candidate_labels", pa.list_(pa.string()), nullable=False),
        pa.field("followups", pa.list_(_TURN), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt, and its response if there is one."""

    prompt: str
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One row: an image, one or more turns about it, and the label that the last response should name."""

    path: str
    turns: tuple[Turn, ...]
    answer: str | None = None
    candidate_labels: tuple[str, ...] = field(default=())

    def columns(self) -> dict[str, Any]:
        """The row's columns in `QUESTION_SCHEMA`, without the image."""
        first, *others = self.turns
        return {
            "path": self.path,
            "prompt": first.prompt,
            "response": first.response,
            "answer": self.answer,
            "candidate_labels": list(self.candidate_labels),
            "followups": [{"prompt": turn.prompt, "response": turn.response} for turn in others],
        }


def parse_question(raw: Any) -> Question:
    """Parse a row of any form. Raises BadRow that says what is missing or of the wrong type."""
    if not isinstance(raw, dict):
        raise BadRow("not a JSON object")
    path = _text(raw, "image_path")
    if "turns" in raw:
        turns = _turns(raw["turns"])
    else:
        name = next((name for name in ("question", "problem", "prompt") if name in raw), None)
        if name is None:
            raise BadRow("no question: none of the fields question, problem, prompt")
        turns = (Turn(_text(raw, name), _text(raw, "response") if "response" in raw else None),)
    labels = raw.get("candidate_labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise BadRow("candidate_labels is not a list of strings")
    _check_unicode("candidate_labels", "".join(labels))
    return Question(path, turns, _answer(raw, turns), tuple(labels))


def _turns(raw: Any) -> tuple[Turn, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(turn, dict) for turn in raw):
        raise BadRow("turns is not a list of {question, response}")
    return tuple(Turn(_text(turn, "question"), _text(turn, "response")) for turn in raw)


def _answer(raw: dict[str, Any], turns: tuple[Turn, ...]) -> str | None:
    """The label: from its own field, or from the answer tag of the last response."""
    for name in ("answer", "solution", "true_label"):
        if name in raw:
            text = _text(raw, name)
            return extract_answer(text) or text.strip()
    response = turns[-1].response
    return extract_answer(response) if response else None


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{name} is missing, empty or not text")
    _check_unicode(name, value)
    return value


def _check_unicode(name: str, text: str) -> None:
    """JSON can escape half a character, such as ``\\ud83d``, which no file could store."""
    if printable(text) != text:
        raise BadRow(f"{name} has half a character (a lone surrogate)")


def read_questions(location: str) -> Iterator[Question | BadRow]:
    """The rows of a .json or .jsonl file, streamed in order; a bad row as a BadRow with the reason.

    Raises UserError for any other file.
    """
    for raw in read_objects(location):
        try:
            yield raw if isinstance(raw, BadRow) else parse_question(raw)
        except BadRow as error:
            yield error


def read_objects(location: str) -> Iterator[Any | BadRow]:
    """The raw rows of a .json or .jsonl file. Raises UserError for any other file."""
    fs, path = get_filesystem(location)
    if not fs.isfile(path):
        raise UserError(f"no such file: {location}")
    with fs.open(path, "rb") as file:
        # Lines of an object would otherwise be fetched one by one, each with a request of its own.
        yield from _objects(io.BufferedReader(file, CHUNK), location)


def _objects(file: BinaryIO, location: str) -> Iterator[Any]:
    start = file.read(1)
    while start.isspace():
        start = file.read(1)
    file.seek(0)
    if start == b"[":
        try:
            yield from ijson.items(file, "item", use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise UserError(f"{location} is not valid JSON: {str(error).splitlines()[0]}") from None
    elif start == b"{":
        for line in filter(bytes.strip, file):
            try:
                yield json.loads(line)
            except ValueError:
                yield BadRow("line that is not JSON")
    else:
        raise UserError(f"{location} holds neither a JSON array nor JSON lines")


class ImageRoot:
    """Finds the images of question rows in a folder or a zip.

    A published path such as ``/FERPlus/test/angry/fer0032225.png`` is first looked up as it is, then by its file name
    if that is unique under the root, because unpacked data sets differ in their folders.
    """

    def __init__(self, location: str) -> None:
        self.tree = FileTree(location)
        names = Counter(posixpath.basename(path) for path in self.tree.files)
        self._unique = {
            posixpath.basename(path): path for path in self.tree.files if names[posixpath.basename(path)] == 1
        }

    def find(self, path: str) -> str:
        """The path in the tree. Raises BadRow if the image is missing or ambiguous."""
        relative = posixpath.normpath(path.replace("\\", "/")).lstrip("/")
        inside = relative.removeprefix(f"{self.tree.name}/")
        for candidate in (relative, inside, self._unique.get(posixpath.basename(relative))):
            if candidate and candidate in self.tree.files:
                return candidate
        raise BadRow("missing image")

    def fingerprint(self, paths: Iterable[str]) -> str:
        """SHA-256 of the root, and of the path and size of each of these images.

        Other files do not count: the root is often the folder that a run's outputs are in, too.
        """
        digest = hashlib.sha256(encode_path(absolute(self.tree.location)))
        for path in paths:
            with suppress(BadRow):
                found = self.find(path)
                digest.update(encode_path(f"{found}\0{self.tree.files[found]}\0"))
        return digest.hexdigest()

    def read(self, path: str) -> bytes:
        """An image's bytes. Raises BadRow."""
        return self.tree.read(self.find(path))

    def locate(self, path: str) -> str:
        """The path or URI for other processes to open. Raises BadRow, and UserError for images in a zip."""
        if self.tree.location.lower().endswith(".zip"):
            raise UserError(
                f"images inside {self.tree.location} can't be opened one by one: leave out --no-embed-images"
            )
        return f"{self.tree.location}/{self.find(path)}"
