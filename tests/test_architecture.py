"""The structure holds: imports run one way, no file imports itself in a circle, and option modules stay light."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
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


# The sub-packages of `fer`, ground floor first: each may import the ones before it.
LAYERS = (
    *("errors", "cpus", "options", "plugins", "storage", "downloads", "labels", "answers", "faces"),
    *("mlflow_client", "mlflow_send", "mlflow_buffer", "tracking", "registry", "models", "data"),
    *("training", "evaluation", "classifier", "vlm", "inference", "grpo", "ferbench", "dynamics", "tuning"),
)


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


@cache
def module_imports() -> dict[str, set[str]]:
    """Each module of `fer` and the modules of `fer` that it imports, anywhere in it."""
    files = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / "fer").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, file in modules.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fer":
                targets = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {target if target in modules else str(node.module) for target in targets}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in modules}
    return found


def test_sub_packages_import_only_the_layers_below_them() -> None:
    wrong = []
    for name, targets in module_imports().items():
        if name == "fer":  # the public API looks down on all of them
            continue
        layer = LAYERS.index(name.split(".")[1])
        wrong += [f"{name} imports {t}" for t in targets if t != "fer" and LAYERS.index(t.split(".")[1]) > layer]
    assert not wrong


def test_architecture_page_lists_the_layers_in_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| `fer/(\w+)(?:\.py|/)`", page, re.MULTILINE) == list(LAYERS)


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        list(TopologicalSorter(module_imports()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        # A training worker; the driver of a sweep; an evaluation, which of an exported model needs no torch.
        ("fer.classifier.train", "matplotlib scipy sklearn torchmetrics mlflow"),
        ("jobs.tune fer.tuning.runner fer.tuning.report tune_spaces.classifier", "torch sklearn torchmetrics"),
        ("fer.classifier.evaluate.evaluator fer.classifier.evaluate.results", "torch ray mlflow"),
    ],
)
def test_processes_import_only_what_they_need(modules: str, unneeded: str) -> None:
    """Imports are most of the time in which a command starts."""
    program = f"import sys, {', '.join(modules.split())}; print(*set({unneeded.split()}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_help_needs_neither_torch_nor_ray() -> None:
    commands = (
        *("", "train", "evaluate", "serve", "tune", "ferbench run", "grpo"),
        *("dynamics", "dynamics extract", "dynamics predict", "dynamics import-blendshapes", "dynamics serve"),
    )
    program = (
        "import sys\n"
        "from jobs.__main__ import main\n"
        f"for command in {commands!r}:\n"
        "    try:\n        main([*command.split(), '--help'])\n"
        "    except SystemExit as stop:\n        assert not stop.code\n"
        "    heavy = {'torch', 'ray', 'cv2', 'mlflow', 'timm', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: fer") == len(commands)
