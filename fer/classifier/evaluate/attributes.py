"""Attributes of the evaluated rows, such as age or gender, from a CSV file beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from fer.errors import UserError

PATH = "path"


@dataclass
class Attributes:
    """Values of some attributes by path. Plain values, so they can be sent to another process."""

    file: str
    names: Sequence[str]
    values: dict[str, tuple[str | None, ...]]
    """By path as it is in the file."""
    found: int = field(default=0)
    """Rows that were looked up and are in the file."""

    def of(self, path: str) -> tuple[str | None, ...]:
        """The values of a row; all None if it is not in the file, which may have the end of the path only."""
        parts = path.split("/")
        for start in range(len(parts)):
            values = self.values.get("/".join(parts[start:]))
            if values is not None:
                self.found += 1
                return values
        return (None,) * len(self.names)

    def check_found(self, path: str) -> None:
        """Raise UserError if none of the rows was in the file; ``path`` is that of one of them."""
        if not self.found:
            raise UserError(
                f"--metadata {self.file}: none of the evaluated rows is in it; its column {PATH!r} has for example "
                f"{next(iter(self.values), 'nothing')}, and the rows {path}"
            )


def read_attributes(file: str, names: Sequence[str]) -> Attributes:
    """The columns ``names`` of a CSV file with a column `path`. Raises UserError if one is missing, or a path twice."""
    columns = [PATH, *names]
    text = {name: pa.string() for name in columns}
    try:
        options = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types=text, strings_can_be_null=True, null_values=["", "NA", "nan"]
        )
        table = pyarrow.csv.read_csv(Path(file), convert_options=options)
    except FileNotFoundError:
        raise UserError(f"--metadata {file}: no such file") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise UserError(
            f"--metadata {file}: not a CSV file with the columns {', '.join(columns)} ({str(error).splitlines()[0]})"
        ) from None
    paths = table[PATH].to_pylist()
    values = dict(zip(paths, zip(*(table[name].to_pylist() for name in names), strict=True), strict=True))
    if len(values) < len(paths):
        twice = next(path for number, path in enumerate(paths) if path in paths[:number])
        raise UserError(f"--metadata {file}: {twice!r} is in it twice")
    return Attributes(file, names, values)
