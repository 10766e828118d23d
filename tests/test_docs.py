"""What the documentation names exists: linked files and headings, paths, modules, make targets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
FOLDERS = "benchmarks|cluster|docs|examples|fer|jobs|requirements|serve_apps|tests|tune_spaces"
KINDS = ("backbones", "commands", "losses", "rewards", "serve_apps", "sources", "tune_spaces")
ENTRY_POINT_GROUPS = {f"fer.{kind}" for kind in KINDS}
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text())):
        if "://" in link or link.startswith(("mailto:", "api/")):
            continue  # the pages in api/ are generated, and their links checked by `make docs`
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@each_page
def test_named_files_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_page
def test_named_modules_and_objects_exist(page: Path) -> None:
    code = " ".join(CODE.findall(page.read_text()))
    named = re.findall(r"(?<![\w/.-])(?:fer|jobs|serve_apps|tune_spaces|benchmarks)(?:\.[A-Za-z_]\w*)+(?![\w/-])", code)
    assert [name for name in named if name not in ENTRY_POINT_GROUPS and not exists(name)] == []
    imports = re.findall(r"from ((?:fer|serve_apps)[\w.]*) import ([\w, ]+)", code)
    imported = [f"{module}.{name.split()[0]}" for module, names in imports for name in names.split(",")]
    assert [name for name in imported if not exists(name)] == []


@each_page
def test_named_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= set(targets)


def anchors(page: Path) -> set[str]:
    """The headings of a page as they are written in links."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def exists(name: str) -> bool:
    """Whether ``name`` is a module, or something that a module defines at its top."""
    folder = ROOT.joinpath(*name.split("."))
    if folder.is_dir() or folder.with_suffix(".py").is_file():
        return True
    module, _, member = name.rpartition(".")
    files = (ROOT.joinpath(*module.split(".")).with_suffix(".py"), ROOT.joinpath(*module.split("."), "__init__.py"))
    return any(member in members(file) for file in files if file.is_file())


@cache
def members(file: Path) -> frozenset[str]:
    return frozenset(defined(ast.parse(file.read_text())))


def defined(module: ast.Module) -> Iterator[str]:
    """Names of classes, functions, constants and imports at the top of a module."""
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If):  # if TYPE_CHECKING
            yield from defined(ast.Module(node.body, []))
