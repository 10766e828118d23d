"""MkDocs hook: an API page for each sub-package of `fer`, made from the docstrings of its modules."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FER = Path(__file__).parents[1] / "fer"


def pages() -> dict[str, str]:
    """Path of each page in the site, and its Markdown: the public API first, then sub-packages, then single modules."""
    packages = sorted(init.parent for init in FER.glob("*/__init__.py"))
    modules = sorted(file for file in FER.glob("*.py") if file.stem != "__init__")
    found = {"api/index.md": page("fer", [FER / "__init__.py"])}
    found |= {f"api/{package.name}.md": page(f"fer.{package.name}", files_of(package)) for package in packages}
    return found | {f"api/{file.stem}.md": page(f"fer.{file.stem}", [file]) for file in modules}


def files_of(package: Path) -> list[Path]:
    """Modules of a package and of the packages in it; an `__init__` only where it has more than a docstring."""
    return [file for file in sorted(package.rglob("*.py")) if len(ast.parse(file.read_text()).body) > 1]


def page(title: str, files: list[Path]) -> str:
    """The package's docstring, and a section for each module."""
    init = FER.parent.joinpath(*title.split("."), "__init__.py")
    purpose = ast.get_docstring(ast.parse(init.read_text())) if init.exists() and files != [init] else None
    return "\n\n".join([f"# `{title}`", purpose or "", *map(section, files)])


def section(file: Path) -> str:
    """What mkdocstrings replaces by the documentation of a module."""
    name = ".".join(file.relative_to(FER.parent).with_suffix("").parts).removesuffix(".__init__")
    return f"::: {name}\n    options: {{heading_level: 2}}\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to the navigation."""
    config.nav = [*(config.nav or []), {"API reference": list(pages())}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files
