"""Every command line that is documented or printed parses: commands, flags, values and recipes are valid."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fer.options
from fer.options import Options
from jobs.__main__ import main
from jobs.commands import JOBS, RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
SOURCES = sorted(file for folder in ("fer", "jobs", "serve_apps") for file in (ROOT / folder).rglob("*.py"))
JOB = "|".join(map(re.escape, JOBS))

UNKNOWN = "1"
"""Stands for the value of an expression: it is a valid text, number and path."""
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
LEFT_OUT = re.compile(r"is required$|expected one argument$|\(got '[A-Z_]+'\)$")
"""Errors that only say that an example has no value for an option, or a word in capitals in place of one."""


class Command(NamedTuple):
    """A command line, and whether options that it needs may be missing: inline code, or a line with an ellipsis."""

    line: str
    fragment: bool = False


def commands_in_markdown(text: str) -> Iterator[Command]:
    """`fer ...` in fenced blocks, line by line, and in inline code."""
    fence = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\w+=\S+ )*fer ", line):
                yield Command(line[line.index("fer ") :])
    yield from (Command(code, fragment=True) for code in re.findall(r"`(fer\s[^`]+)`", fence.sub("", text)))


def commands_in_python(source: str) -> Iterator[Command]:
    """`fer ...` in string literals and f-strings: in backticks, or from the start of a line or after "Next: "."""
    for text in texts(ast.parse(source)):
        yield from (Command(code, fragment=True) for code in re.findall(r"`(fer\s[^`]+)`", text))
        for line in text.splitlines():
            if found := re.match(rf"(?:.*:)?\s*(fer (?:{JOB}) [^`]+?)(?:  | \(|$)", line):
                yield Command(found[1])


def texts(tree: ast.AST) -> Iterator[str]:
    """Every string of a module. Expressions in f-strings are replaced by ``UNKNOWN``."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= set(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else UNKNOWN for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def words(line: str) -> list[str]:
    """The arguments of ``fer`` in a line: up to a comment, a pipe or the end of the command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        ellipsis = word in ("...", "…", "[OPTIONS]")
        if not ellipsis or (found and found[-1].startswith("--")):
            found.append(word)
    return found[1:]


class Parsed(Exception):
    """The command line was parsed, and would be run now."""


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Command], str | None]:
    """Parses a command line without running it; the error message, if there is one."""
    real = fer.options.parse

    def parse_only(*args: Any) -> None:
        raise Parsed(real(*args))

    monkeypatch.setattr(fer.options, "parse", parse_only)

    def find(command: Command) -> str | None:
        argv = words(command.line)
        if "--config" in argv and argv[(at := argv.index("--config")) + 1].isupper():
            del argv[at : at + 2]  # stands for any recipe
        message = run(argv)
        fragment = command.fragment or "..." in command.line or "…" in command.line
        if fragment and (missing := re.search(r"the following arguments are required: (.*)", message or "")):
            flags = next((at for at, word in enumerate(argv) if word.startswith("--")), len(argv))
            message = run(argv[:flags] + missing[1].split(", ") + argv[flags:])
        reasons = message.split(": ", 1)[1].split("; ") if message else []
        return message if [reason for reason in reasons if not (fragment and LEFT_OUT.search(reason))] else None

    def run(argv: list[str]) -> str | None:
        if argv and (argv[0].isupper() or argv[0] == UNKNOWN):
            return None  # `fer COMMAND --help`: any command
        try:
            return None if main(argv) == 0 else capsys.readouterr().err.strip()
        except Parsed:
            return None
        except SystemExit as end:  # --help
            return str(end) if end.code else None

    return find


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_command_lines_parse(page: Path, fault: Callable[[Command], str | None]) -> None:
    faults = {command.line: fault(command) for command in commands_in_markdown(page.read_text())}
    assert not {line: reason for line, reason in faults.items() if reason}


def test_printed_command_lines_parse(fault: Callable[[Command], str | None]) -> None:
    faults = {
        f"{file.relative_to(ROOT)}: {command.line}": fault(command)
        for file in SOURCES
        for command in commands_in_python(file.read_text())
    }
    assert len(faults) > 20
    assert not {line: reason for line, reason in faults.items() if reason}


def flags_of(options: type[Options], prefix: str = "--") -> Iterator[str]:
    for name, field in options.model_fields.items():
        for flag in {name, *([field.alias] if field.alias else [])}:
            yield prefix + flag.replace("_", "-")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            yield from flags_of(field.annotation, f"{prefix}{name.replace('_', '-')}.")


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of every command."""
    found = {"--config", "--help"}
    for job in JOBS:
        module = import_module(f"jobs.{re.sub('[ -]', '_', job)}")
        for command in getattr(module, "SUBCOMMANDS", {"": module}).values():
            found |= set(flags_of(command.Config))
    return found | {f"--no-{flag.removeprefix('--')}" for flag in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_flags_exist(page: Path, flags: set[str]) -> None:
    inline = re.findall(r"`(--[^`]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    named = {flag for code in inline for flag in FLAG.findall(code)}
    assert named <= flags


def test_printed_flags_exist(flags: set[str]) -> None:
    named = {
        (flag, str(file.relative_to(ROOT)))
        for file in SOURCES
        for text in texts(ast.parse(file.read_text()))
        if " " in text  # else an argument of another program
        for flag in FLAG.findall(text)
    }
    assert {(flag, file) for flag, file in named if flag not in flags | {"--backend-store-uri"}} == set()


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_recipes_parse(recipe: Path, fault: Callable[[Command], str | None]) -> None:
    assert fault(Command(f"fer {recipe.parent.name} --config {recipe.stem} ...")) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fer train --data DIR --epochs 3 --no-amp  # a comment", None),
        ("fer train --data DIR --config fer2013-cpu | tee log", None),
        ("fer train --data DIR --config NAME", None),
        ("fer train --help", None),
        ("fer train --epochs 3 ...", None),
        ("fer train --epochs 3", "--data is required"),
        ("fer train --data DIR --epoch 3", "--epoch"),
        ("fer train --data DIR --epochs three", "--epochs: input should be a valid integer"),
        ("fer train --data DIR --config fer2013-gpu", "fer2013-gpu"),
        ("fer teach --data DIR", "unknown command 'teach'"),
        ("fer ferbench run --model M --data D ...", "--model"),
        ("fer ferbench grade DIR", "unknown command 'grade'"),
        ("fer predict ... --no-such-flag", "--no-such-flag"),
        ("fer predict ... --format", None),
        ("fer questions --kind KIND ...", None),
    ],
)
def test_a_wrong_command_line_is_found(line: str, reason: str | None, fault: Callable[[Command], str | None]) -> None:
    found = fault(Command(line))
    assert found is None if reason is None else reason in (found or "")


def test_command_lines_are_found_in_markdown() -> None:
    text = "Run `fer train --data\nDIR`.\n```bash\nX=1 fer sft --data FILE \\\n  --epochs 2\nls\n```\n"
    assert list(commands_in_markdown(text)) == [
        Command("fer sft --data FILE    --epochs 2"),
        Command("fer train --data\nDIR", fragment=True),
    ]


def test_command_lines_are_found_in_python() -> None:
    source = '''
print(f"Next:    fer merge --adapter {folder} --out {root}/merged")
raise UserError("no questions: make some with `fer questions --kind grpo`, "
                "or train with fer sft")
step("fer prepare: checked shards")
text = """
  or:  fer train --data D   (fer train --help)"""
'''
    assert sorted(commands_in_python(source)) == [
        Command("fer merge --adapter 1 --out 1/merged"),
        Command("fer questions --kind grpo", fragment=True),
        Command("fer train --data D"),
    ]
