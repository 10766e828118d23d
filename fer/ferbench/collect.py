"""Finding results: the folders that `fer ferbench run` leaves, and files in UniFER's form."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer.data.sources.ferplus import COLUMNS, EMOTIONS, majority
from fer.errors import UserError
from fer.ferbench.results import RUN, ResultsFile, read_results


@dataclass(frozen=True)
class ModelResults:
    """Everything that one model answered."""

    name: str
    files: list[ResultsFile]
    record: dict[str, Any]
    """`run.json`: settings, image root, and what the answers took; empty for files from elsewhere."""


def collect(locations: Sequence[str]) -> list[ModelResults]:
    """The models of folders, and the one model whose files are given by themselves. Raises UserError."""
    models: list[ModelResults] = []
    loose: list[ResultsFile] = []
    for location in locations:
        if not Path(location).is_dir():
            loose.append(read_results(location))
            continue
        folders = sorted(record.parent for record in Path(location).rglob(RUN))
        if not folders:
            raise UserError(f"{location} holds no {RUN} of `fer ferbench run`; name results files by themselves")
        models += [_of_folder(folder) for folder in folders]
    if loose:
        models.append(ModelResults(Path(loose[0].location).stem if len(loose) == 1 else "results", loose, {}))
    for model in models:
        names = [file.name for file in model.files]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{model.name} has two files of {twice[0]}: score each model's files by themselves")
    called = [model.name for model in models]
    if twice := [name for name in called if called.count(name) > 1]:
        raise UserError(f"two models are called {twice[0]!r}: give each run a --name of its own")
    return models


def _of_folder(folder: Path) -> ModelResults:
    record = json.loads((folder / RUN).read_text())
    paths = [folder / f"{name}.json" for name in record["questions"]]
    unfinished = [path for path in paths if not path.exists()]
    if unfinished:
        raise UserError(f"{unfinished[0]} is not there: the run was stopped; give its command again to finish it")
    return ModelResults(record["name"], [read_results(str(path)) for path in paths], record)


def clear_majority(votes: str) -> set[str]:
    """Names of the FER+ images whose votes have a majority for an emotion, by the rule of Microsoft's FERPlus code.

    ``votes`` is the file `fer2013new.csv`. Raises UserError for another one.
    """
    try:
        with open(votes, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"Image name", *COLUMNS} <= set(rows.fieldnames or ()):
                raise UserError(f"--ferplus-votes {votes} lacks columns of FER+: Image name,{','.join(COLUMNS)}")
            winners = {row["Image name"]: majority([int(row[column]) for column in COLUMNS]) for row in rows}
    except (OSError, ValueError) as error:
        raise UserError(f"--ferplus-votes {votes} can't be read: {error}") from None
    return {name for name, winner in winners.items() if winner in EMOTIONS}


def only_clear(file: ResultsFile, clear: set[str]) -> ResultsFile:
    """The results whose image has a clear majority."""
    return replace(file, results=[result for result in file.results if posixpath.basename(result.path) in clear])
