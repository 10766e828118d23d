"""Extension points: objects found by name, in Ferry, in an installed package, or as ``module:object``.

An installed package adds names through entry points, one group for each kind (see CONTRIBUTING.md). Nothing is imported
before it is used, so option modules can list names and ``--help`` stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from fer.errors import UserError


@dataclass(frozen=True)
class Registry:
    """The objects that one option can name."""

    option: str
    """For messages: ``--loss``."""
    group: str
    """The entry-point group: ``fer.losses``."""
    builtin: Mapping[str, str]
    """Ferry's own: each name and its ``module:object``."""
    allow_references: bool = True
    """Whether the user may also write ``module:object``. Not where the name is stored in a model folder, which may come
    from anywhere and must not choose the code that is run."""

    def references(self) -> dict[str, str]:
        """Every known name and its ``module:object``: Ferry's first, which no package can take over."""
        others = {name: value for name, value in installed(self.group).items() if name not in self.builtin}
        return {**self.builtin, **others}

    def check(self, name: str) -> str:
        """The name, if it is known or a reference. Raises ValueError that lists what is known; imports nothing."""
        if name in self.builtin or (self.allow_references and ":" in name) or name in self.references():
            return name
        raise ValueError(f"must be one of {self.choices}")

    @property
    def choices(self) -> str:
        """The known names as a list for people."""
        return ", ".join(self.references()) + (" or module:object" if self.allow_references else "")

    def load(self, name: str) -> Any:
        """Import the object; of a reference, from the current folder too.

        Raises UserError for an unknown name and for one that cannot be imported.
        """
        reference = self.builtin.get(name) or self.references().get(name)
        if reference is not None:
            return import_object(reference, self.option)
        try:
            return load_object(self.check(name), self.option)
        except ValueError as error:
            raise UserError(f"{self.option} {name}: {error}") from None


def installed(group: str) -> dict[str, str]:
    """Names and ``module:object`` references of a group that installed packages provide, in alphabetical order."""
    return {point.name: point.value for point in sorted(entry_points(group=group))}


def load_object(reference: str, option: str) -> Any:
    """The object that the user refers to as ``module:object``; modules in the current folder are found too.

    Only here: elsewhere a file in the current folder could pose as a package that is not installed. Raises UserError
    that names the option.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return import_object(reference, option)


def import_object(reference: str, option: str) -> Any:
    """The object that ``module:object`` refers to, or the module where there is no colon.

    Raises UserError that names the option.
    """
    module, _, path = reference.partition(":")
    try:
        found: Any = import_module(module)
        for attribute in filter(None, path.split(".")):
            found = getattr(found, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{option} {reference}: cannot be imported: {error}") from None
    return found
