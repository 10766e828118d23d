"""The wheel, installed into an environment of its own: it has every file, and commands that read their files work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "fer", "jobs", "serve_apps", "tune_spaces")
pytestmark = pytest.mark.slow

RENDER_COMPLETIONS = """
from types import SimpleNamespace as Values

import numpy as np

from fer.grpo.metrics_logger import MetricsLogger


def show(folder, name):
    print((folder / "step-000040.html").read_text())


tracking = Values(log_artifacts=show)
logger = MetricsLogger(None, None, tracking, ["accuracy"], total_steps=1, total_batches=1, peak_flops=None)
prompt = Values(image=np.zeros((28, 28, 3), np.uint8))
example = Values(answer="happy", path="a.png", question="Which expression?", prompt=prompt)
completion = Values(token_ids=[1, 2], truncated=False, text="<answer>happy</answer>")
score = Values(total=1.0, parts={"accuracy": 1.0})
logger.log_completions([Values(example=example, completions=[completion], scores=[score])], global_step=40)
"""


def checkout_files() -> set[str]:
    """Every file of the packages; the sources of the page are in the wheel as what they are bundled into."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file())
    return {str(file.relative_to(ROOT)) for file in files if not {"__pycache__", "src"} & set(file.parts)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: setuptools would pack what an earlier build left in `build/`, too."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(out), str(source))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program of a new environment, in a folder that is not the checkout; returns what it prints."""
    folder = tmp_path_factory.mktemp("installed")
    bin = folder / "env" / "bin"
    uv("venv", "--python", sys.executable, str(folder / "env"))
    uv("pip", "install", "--no-deps", "--python", str(bin / "python"), str(wheel))
    # The dependencies of this environment, without downloading them again. Of a folder named by a .pth file, the .pth
    # files are not read, so that its editable installation of the checkout is not found.
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "FER_"))}

    def run(program: str, *arguments: str) -> str:
        command = [str(bin / program), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert run("python", "-c", "import fer; print(fer.__file__)").startswith(str(folder))
    return run


def uv(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_has_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == checkout_files()


def test_help(run: Callable[..., str]) -> None:
    assert "usage: fer COMMAND" in run("fer", "--help")
    assert "--faces-per-class" in run("fer", "demo", "--help")
    assert "resnet50-six-class" in run("fer", "train", "--help"), "the recipes"


def test_evaluate_writes_its_report(run: Callable[..., str], small_shards: Path, tmp_path: Path) -> None:
    from fer.classifier.model import build_model, new_spec, save_model
    from fer.classifier.options import ModelOptions
    from fer.labels import get_space

    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32), get_space("basic"))
    save_model(build_model(spec), spec, tmp_path / "model")
    out = tmp_path / "evaluation"
    run("fer", "evaluate", str(tmp_path / "model"), "--data", str(small_shards), "--device", "cpu", "--out", str(out))
    assert "<html" in (out / "report.html").read_text()
    assert (out / "metrics.json").is_file()


def test_the_page_of_completions(run: Callable[..., str]) -> None:
    page = run("python", "-c", RENDER_COMPLETIONS)
    assert "<h1>Completions at step 40</h1>" in page
    assert "&lt;answer&gt;happy&lt;/answer&gt;" in page


def test_spaces_are_found(run: Callable[..., str]) -> None:
    assert "weight_decay" in run("fer", "tune", "--space", "classifier_cpu", "--show")
