"""The house keeps its shape: imports run one way, and option modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "fer": set(),
    "cluster": {"fer"},
    "tune_spaces": {"fer"},
    "serve_apps": {"fer"},
    "jobs": {"fer", "cluster", "tune_spaces", "serve_apps"},
}


def imported(file: Path) -> set[str]:
    """Top-level names of every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    forbidden = set(ALLOWED) - ALLOWED[package] - {package}
    wrong = {str(file.relative_to(ROOT)): imported(file) & forbidden for file in files}
    assert not {file: names for file, names in wrong.items() if names}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["serve", "--help"],
        ["tune", "--help"],
        ["ferbench", "run", "--help"],
        ["grpo", "--help"],
        ["dynamics", "--help"],
        ["dynamics", "extract", "--help"],
        ["dynamics", "predict", "--help"],
        ["dynamics", "import-blendshapes", "--help"],
        ["dynamics", "serve", "--help"],
    ],
)
def test_help_needs_neither_torch_nor_ray(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from jobs.__main__ import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'ray', 'cv2', 'mlflow', 'timm', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: fer" in done.stdout
