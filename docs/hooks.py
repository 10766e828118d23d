"""MkDocs hook: API pages of `fer`, made from its docstrings, and the repository's CONTRIBUTING.md."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FER = ROOT / "fer"


def pages() -> dict[str, list[Path]]:
    """The name of each page and its modules: the public API first, then sub-packages, then single modules."""
    packages = sorted(init.parent for init in FER.glob("*/__init__.py"))
    modules = sorted(file for file in FER.glob("*.py") if file.stem != "__init__")
    found = {"fer": [FER / "__init__.py"]}
    found |= {f"fer.{package.name}": documented(package) for package in packages}
    return found | {f"fer.{file.stem}": [file] for file in modules}


def documented(package: Path) -> list[Path]:
    """Modules of a package and of the packages in it; an `__init__` only if it has more than a docstring."""
    return [file for file in sorted(package.rglob("*.py")) if len(ast.parse(file.read_text()).body) > 1]


def path(name: str) -> str:
    return f"api/{name.partition('.')[2] or 'index'}.md"


def content(name: str, files: list[Path]) -> str:
    """Markdown of a page; mkdocstrings replaces each `:::` by the documentation of a module."""
    if len(files) == 1 and name == module(files[0]):
        return f"::: {name}\n    options: {{heading_level: 1}}\n"
    purpose = ast.get_docstring(ast.parse(ROOT.joinpath(*name.split("."), "__init__.py").read_text()))
    sections = [f"::: {module(file)}\n    options: {{heading_level: 2}}\n" for file in files]
    return "\n\n".join([f"# {name}", purpose or "", *sections])


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to the navigation."""
    config.nav = [*(config.nav or []), {"API reference": [{name: path(name)} for name in pages()]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "](")
    files.append(File.generated(config, "contributing.md", content=contributing))
    for name, modules in pages().items():
        files.append(File.generated(config, path(name), content=content(name, modules)))
    return files
