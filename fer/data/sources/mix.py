"""A mix: several data sets in one label space, listed in a YAML file.

    label_space: six-class
    sources:
      - {data: fer2013.zip}
      - {data: ck+, name: ckplus}
      - {data: jaffe}

Paths are relative to the YAML file. Rows whose label has no counterpart are excluded and counted.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import replace

import yaml
from pydantic import Field, ValidationError, field_validator

from fer.data.filesystem import FileTree
from fer.data.mapping import map_rows
from fer.data.options import DataOptions, Format
from fer.data.schema import FaceRow
from fer.data.sources import open_source
from fer.errors import UserError
from fer.labels import get_space
from fer.options import Options, describe_errors


class Part(Options):
    """One data set of a mix; its rows' paths and groups are prefixed with ``name``."""

    data: str
    format: Format = "auto"
    name: str = ""

    @field_validator("format")
    @classmethod
    def _names_no_code(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("a mix may come from anywhere, so it can't name code: use a source by its name")
        return value


class Mix(Options):
    """The YAML file of a mix."""

    label_space: str
    sources: list[Part] = Field(min_length=1)


class MixSource:
    """Several sources as one."""

    format = "mix"

    def __init__(self, tree: FileTree) -> None:
        self.text = tree.read(_yaml_file(tree) or _not_a_mix(tree))
        try:
            mix = Mix.model_validate(yaml.safe_load(self.text))
        except (yaml.YAMLError, ValidationError) as error:
            why = describe_errors(error) if isinstance(error, ValidationError) else "not YAML"
            raise UserError(f"{tree.name}: {why}") from None
        self.space = get_space(mix.label_space)
        names = [part.name or posixpath.basename(part.data.rstrip("/")) for part in mix.sources]
        if len(set(names)) < len(names):
            raise UserError(f"{tree.name}: give each source a different name ({', '.join(names)})")
        try:
            self.parts = {
                name: open_source(DataOptions(data=_resolve_path(tree, part.data), format=part.format))
                for name, part in zip(names, mix.sources, strict=True)
            }
        except RecursionError:
            raise UserError(f"{tree.name} lists itself, or a mix that lists it: remove that source") from None

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return _yaml_file(tree) is not None

    def rows(self) -> Iterator[FaceRow]:
        for name, part in self.parts.items():
            for row in map_rows(part.rows(), part.space, self.space):
                group = row.group and f"{name}/{row.group}"
                yield replace(row, path=f"{name}/{row.path.partition('/')[2] or row.path}", group=group)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.text)
        for part in self.parts.values():
            digest.update(part.fingerprint().encode())
        return digest.hexdigest()


def _yaml_file(tree: FileTree) -> str | None:
    """Path of the tree's only file if it is a YAML file, else None."""
    if len(tree.files) != 1:
        return None
    (file,) = tree.files
    return file if file.endswith((".yaml", ".yml")) else None


def _not_a_mix(tree: FileTree) -> str:
    raise UserError(f"{tree.location} is not a mix: give a .yaml file with label_space and sources")


def _resolve_path(tree: FileTree, data: str) -> str:
    return data if "://" in data else posixpath.join(tree.location, data)
