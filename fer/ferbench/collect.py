"""Collecting results: folders of `fer ferbench run`, and files in UniFER's form."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.data.sources.ferplus import COLUMNS, EMOTIONS, majority
from fer.errors import UserError
from fer.ferbench.results import RECORD, ResultsFile, read_results
from fer.storage import open_path

if TYPE_CHECKING:
    from upath import UPath


@dataclass(frozen=True)
class ModelResults:
    """All results of one model."""

    name: str
    files: list[ResultsFile]
    record: dict[str, Any]
    """`run.json`: settings, image root and usage; empty for files in UniFER's form."""


def collect_results(locations: Sequence[str]) -> list[ModelResults]:
    """The models of all folders, and one model for the single files. Raises UserError."""
    models: list[ModelResults] = []
    single_files: list[ResultsFile] = []
    for location in locations:
        folder = open_path(location)
        if not folder.is_dir():
            single_files.append(read_results(location))
            continue
        paths = sorted(folder.rglob(RECORD), key=str)
        records = [(path.parent, json.loads(path.read_text())) for path in paths]
        found = [_read_folder(each, record) for each, record in records if "questions" in record]  # a training has none
        if not found:
            raise UserError(f"{location} holds no {RECORD} of `fer ferbench run`; name other files one by one")
        models += found
    if single_files:
        name = Path(single_files[0].location).stem if len(single_files) == 1 else "results"
        models.append(ModelResults(name, single_files, {}))
    for model in models:
        files = [file.name for file in model.files]
        if repeated := [name for name in files if files.count(name) > 1]:
            raise UserError(f"{model.name} has two files of {repeated[0]}: evaluate each model's files separately")
    names = [model.name for model in models]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two models are named {repeated[0]!r}: give each run its own --name")
    return models


def _read_folder(folder: UPath, record: dict[str, Any]) -> ModelResults:
    paths = [folder / f"{name}.json" for name in record["questions"]]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]} does not exist: the run was interrupted; repeat its command to finish it")
    return ModelResults(record["name"], [read_results(str(path)) for path in paths], record)


def clear_majority_images(votes: str) -> set[str]:
    """Names of the FER+ images whose votes have a majority for an emotion, by the rule of Microsoft's FERPlus code.

    ``votes`` is the file `fer2013new.csv`. Raises UserError for any other file.
    """
    try:
        with open(votes, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="")
            if not {"Image name", *COLUMNS} <= set(rows.fieldnames or ()):
                raise UserError(f"--ferplus-votes {votes} lacks columns of FER+: Image name,{','.join(COLUMNS)}")
            winners = {row["Image name"]: majority([int(row[column]) for column in COLUMNS]) for row in rows}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ferplus-votes {votes} can't be read: {error}") from None
    except ValueError:
        raise UserError(f"--ferplus-votes {votes} has votes that are not whole numbers: download it again") from None
    return {name for name, winner in winners.items() if winner in EMOTIONS}


def filter_images(file: ResultsFile, names: set[str]) -> ResultsFile:
    """Only the results of the images with these file names."""
    return replace(file, results=[result for result in file.results if posixpath.basename(result.path) in names])
