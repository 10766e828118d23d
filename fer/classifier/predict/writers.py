"""Writers of prediction rows: a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Literal, Protocol, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer.classifier.predict.rows import UNCERTAIN, PredictionRow, table_columns, table_row
from fer.errors import UserError
from fer.storage import check_access, get_filesystem, is_uri

Format = Literal["table", "jsonl", "csv"]
FILE_WIDTH = 160  # characters of a table in a file


class Writer(Protocol):
    """Writes rows as they come."""

    def write(self, rows: Sequence[PredictionRow]) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    """One JSON object per row, with every key."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, rows: Sequence[PredictionRow]) -> None:
        self.stream.writelines(row.model_dump_json() + "\n" for row in rows)

    def close(self) -> None:
        self.stream.flush()


class CsvWriter:
    """One line per row, with four columns for the box and a column `p_LABEL` for the probability of each label."""

    def __init__(self, stream: TextIO, labels: Sequence[str]) -> None:
        self.writer = csv.DictWriter(stream, table_columns(labels), restval="", lineterminator="\n")
        self.writer.writeheader()

    def write(self, rows: Sequence[PredictionRow]) -> None:
        self.writer.writerows(table_row(row) for row in rows)

    def close(self) -> None:
        pass


class TableWriter:
    """A table for the terminal, without empty columns; distributions are in percent, the most probable label first."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, width=None if stream.isatty() else FILE_WIDTH)
        self.rows: list[PredictionRow] = []

    def write(self, rows: Sequence[PredictionRow]) -> None:
        self.rows += rows

    def close(self) -> None:
        cells = [_cells(row) for row in self.rows]
        titles = [title for title in cells[0] if any(cell[title] for cell in cells)] if cells else []
        table = Table(box=box.SIMPLE_HEAD)
        for title in titles:
            numeric = title in ("time", "face", "confidence", "valence", "arousal")
            table.add_column(title, justify="right" if numeric else "left", overflow="fold")
        for row, cell in zip(self.rows, cells, strict=True):
            style = (
                "red"
                if not row.is_readable
                else "dim"
                if row.label in (None, UNCERTAIN) and row.valence is None
                else ""
            )
            table.add_row(*(Text(cell[title]) for title in titles), style=style)
        self.console.print(table)


def _cells(row: PredictionRow) -> dict[str, str]:
    ranked = sorted((row.scores or {}).items(), key=lambda item: -item[1])
    return {
        "path": row.path,
        "time": f"{row.seconds:.2f} s" if row.seconds is not None else "",
        "face": str(row.face) if row.face is not None else "",
        "box": _describe_box(row),
        "label": row.label or "",
        "compound": row.compound or "",
        "confidence": f"{row.confidence:.2f}" if row.confidence is not None else "",
        "distribution (%)": "  ".join(f"{label} {100 * p:.0f}" for label, p in ranked),
        "valence": f"{row.valence:+.2f}" if row.valence is not None else "",
        "arousal": f"{row.arousal:+.2f}" if row.arousal is not None else "",
        "error": row.error or "",
    }


def _describe_box(row: PredictionRow) -> str:
    if row.whole_image:
        return "whole image"
    return "{:.0f},{:.0f} {:.0f}x{:.0f}".format(*row.box) if row.box else ""


def choose_format(requested: str, out: str | None) -> Format:
    """Resolve `auto`: CSV for a .csv file, a table on a terminal or for a .txt file, else JSON lines."""
    if requested != "auto":
        return requested  # type: ignore[return-value]
    if out is None:
        return "table" if sys.stdout.isatty() else "jsonl"
    return {".csv": "csv", ".txt": "table"}.get(Path(out).suffix, "jsonl")  # type: ignore[return-value]


@contextmanager
def open_writer(file_format: Format, out: str | None, labels: Sequence[str]) -> Iterator[Writer]:
    """A writer to the file ``out``, or to standard output. Raises UserError if the file can't be written."""
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(_open(out)) if out else sys.stdout
        except OSError as error:
            raise UserError(f"--out {out}: {(error.strerror or str(error)).lower()}") from None
        writer = _create_writer(file_format, stream, labels)
        yield writer
        writer.close()


def _open(out: str) -> AbstractContextManager[TextIO]:
    if not is_uri(out):
        return Path(out).open("w", encoding="utf-8", newline="")
    fs, path = get_filesystem(out)
    check_access(out)
    return fs.open(path, "w", encoding="utf-8", newline="")


def _create_writer(file_format: Format, stream: TextIO, labels: Sequence[str]) -> Writer:
    if file_format == "csv":
        return CsvWriter(stream, labels)
    return JsonLinesWriter(stream) if file_format == "jsonl" else TableWriter(stream)
