"""Extension points: a package outside the repository adds one of each kind. Its code is that of CONTRIBUTING.md."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from cluster.ports import free_port
from fer.classifier.losses import build_loss
from fer.classifier.model import build_model, load_model, new_spec, save_model
from fer.classifier.options import LOSSES, LossOptions, ModelOptions, TrainConfig
from fer.data.options import SOURCES, DataOptions, PrepareOptions
from fer.data.prepare import prepare
from fer.data.sources import open_source
from fer.errors import UserError
from fer.grpo.options import REWARDS
from fer.grpo.rewards import RewardInput, RewardScorer
from fer.labels import get_space
from fer.plugins import Registry, load_object
from jobs.__main__ import main
from jobs.commands import JOBS, all_commands
from jobs.tune import find_space
from serve_apps.options import APPS, ServeConfig
from tests.processes import environment, running

ROOT = Path(__file__).parents[1]
RECIPES = dict(
    re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
)


def install(site: Path, name: str, entry_points: dict[str, dict[str, str]]) -> None:
    """Make a package's entry points known, as an installer does."""
    info = site / f"{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    groups = ("\n".join([f"[{group}]", *map(" = ".join, names.items())]) for group, names in entry_points.items())
    (info / "entry_points.txt").write_text("\n\n".join(groups))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, with `faces_extra` of CONTRIBUTING.md in it."""
    folder = tmp_path / "site"
    for path, code in RECIPES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    project = tomllib.loads(RECIPES["pyproject.toml"])["project"]
    install(folder, "faces_extra", project["entry-points"])
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.startswith("faces_extra")]:
        del sys.modules[name]


@pytest.fixture
def flat_folder(tmp_path: Path, face_folder: Path) -> Path:
    """Two faces of each label, in one folder, as the recipe's source reads them."""
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(sorted(face_folder.glob("*/*_0000[01].png"))):
        (tmp_path / "flat" / f"{file.parent.name}_{number:04}.png").write_bytes(file.read_bytes())
    return tmp_path / "flat"


@pytest.mark.parametrize("format", ["auto", "flat", "faces_extra.flat_source:FlatSource"])
def test_source(site: Path, flat_folder: Path, tmp_path: Path, format: str) -> None:
    dataset = prepare(PrepareOptions(data=str(flat_folder), out=str(tmp_path / "shards"), format=format))
    assert dataset.manifest.format == "flat"
    assert dataset.manifest.label_space == "basic"
    assert sum(split.rows for split in dataset.manifest.splits.values()) == 14


def test_a_mix_names_sources_but_no_code(site: Path, flat_folder: Path) -> None:
    mix = flat_folder.parent / "mix.yaml"
    mix.write_text("label_space: basic\nsources:\n  - {data: flat, format: flat}\n")
    assert len(list(open_source(DataOptions(data=str(mix))).rows())) == 14
    mix.write_text("label_space: basic\nsources:\n  - {data: flat, format: 'faces_extra.flat_source:FlatSource'}\n")
    with pytest.raises(UserError, match="can't name code"):
        open_source(DataOptions(data=str(mix)))


def test_backbone(site: Path, tmp_path: Path) -> None:
    options = ModelOptions(backbone="tinynet", img_size=32, in_chans=1, model_kwargs={"width": 8})
    spec = new_spec(options, get_space("basic"))
    model = build_model(spec).eval()
    images = torch.randn(2, 1, 32, 32)
    logits = model(images).logits
    assert logits.shape == (2, 7)
    save_model(model, spec, tmp_path / "model")
    again, _ = load_model(tmp_path / "model")
    torch.testing.assert_close(again(images).logits, logits)


def test_a_model_folder_cannot_name_code(site: Path, tmp_path: Path) -> None:
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32), get_space("basic"))
    save_model(build_model(spec), spec, tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content["options"]["backbone"] = "faces_extra.tinynet:tinynet"
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="timm has no model"):
        load_model(tmp_path)
    assert "faces_extra.tinynet" not in sys.modules


@pytest.mark.parametrize("name", ["poly1", "faces_extra.poly_loss:poly1"])
def test_loss(site: Path, name: str) -> None:
    loss = build_loss(LossOptions(loss=name))
    logits = torch.zeros(3, 4, requires_grad=True)
    value = loss(logits, torch.eye(4)[:3])
    value.backward()
    assert value.item() == pytest.approx(torch.tensor(4.0).log().item() + 0.75)
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["grounded", "faces_extra.grounded_reward:grounded"])
def test_reward(site: Path, name: str) -> None:
    scorer = RewardScorer({"accuracy": 1.0, name: 0.2})
    text = "<think>The mouth is open.</think><answer>surprise</answer>"
    assert scorer(RewardInput(text, "surprise", 12, 100)).total == pytest.approx(1.2)
    assert scorer(RewardInput("<answer>surprise</answer>", "surprise", 5, 100)).total == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["rates", "faces_extra.rates_space:SPACE"])
def test_search_space(site: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    space = find_space(name)
    assert TrainConfig(data="d", **space.to_options(space.default)).lr == 3e-4
    assert main(["tune", "--space", name, "--show"]) == 0
    assert "weight_decay" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["labels", "faces_extra.labels_app:build_app"])
def test_serve_app(site: Path, name: str) -> None:
    assert APPS.load(ServeConfig(model="m", apps=[name]).apps[0]).__module__ == "faces_extra.labels_app"


@pytest.mark.slow
def test_serve_app_answers(site: Path, tmp_path: Path, face_folder: Path) -> None:
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32), get_space("basic"))
    save_model(build_model(spec), spec, tmp_path / "model")
    port = free_port()
    options = ["--model", "model", "--apps", "labels", "--port", str(port), "--token", "s" * 16]
    command = [sys.executable, "-m", "jobs.serve", *options]
    with running(
        command, stop=signal.SIGINT, cwd=tmp_path, env=environment(PYTHONPATH=f"{site}:{ROOT}"),
        stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert any("Serving" in line for line in server.stdout), "the server ended"
        face = next(face_folder.glob("*/*.png")).read_bytes()
        url, header = f"http://127.0.0.1:{port}/v1/labels", {"Authorization": f"Bearer {'s' * 16}"}
        assert httpx.post(url, files={"files": face}, timeout=60).status_code == 401
        [[label]] = httpx.post(url, files={"files": face}, headers=header, timeout=60).json()
        assert label in spec.labels
    assert server.returncode == 0


@pytest.mark.slow
def test_train_with_code_of_the_current_folder(site: Path, flat_folder: Path) -> None:
    """Not installed and not on the path: the driver and its workers find it beside the person who types."""
    command = [
        *(str(Path(sys.executable).with_name("fer")), "train", "--data", str(flat_folder), "--name", "first"),
        *("--format", "faces_extra.flat_source:FlatSource", "--loss", "faces_extra.poly_loss:poly1"),
        *("--backbone", "test_resnet", "--img-size", "32", "--batch-size", "4", "--epochs", "1", "--val-split", "0.3"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (site / "runs" / "first" / "model" / "model.safetensors").is_file()


def test_command(site: Path, flat_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert re.search(r"^  count +from faces_extra.count_command$", capsys.readouterr().out, re.MULTILINE)
    assert main(["count", "--data", str(flat_folder)]) == 0
    assert re.search(r"^happiness +2$", capsys.readouterr().out, re.MULTILINE)
    assert main(["count", "--data", str(flat_folder), "--val-split", "7"]) == 2
    assert capsys.readouterr().err.startswith("fer count: --val-split: input should be less than 1")


def test_help_is_fast(site: Path) -> None:
    """CPU time of the whole process, so that other work on the machine does not count."""
    code = "import sys, time; from jobs.__main__ import main; main(['--help']); print(time.process_time())"
    environment = {**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True) for _ in "123"
    ]
    assert "faces_extra" in runs[0].stdout
    assert min(float(run.stdout.split()[-1]) for run in runs) < 0.5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--data", "d", "--loss", "hinge"], "bootstrap-hard, poly1 or module:object"),
        (["train", "--data", "d", "--format", "fer2014"], "sfew, unlabelled, folder, flat or module:object"),
        (["serve", "--model", "m", "--apps", "nope"], "must be one of classifier, live, vlm, labels or module:object"),
        (["tune", "--data", "d", "--space", "nope"], "fusion, rates or module:object"),
        (["grpo", "--data", "d", "--rewards", '{"nope": 1}'], "repetition, grounded or module:object"),
        (["prepare", "--data", ".", "--out", "o", "--format", "nowhere:Source"], "--format nowhere:Source: cannot be"),
        (["nope"], "jobs, count"),
    ],
)
def test_unknown_names_are_one_line(
    site: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unknown_backbone(site: Path) -> None:
    with pytest.raises(UserError, match="--backbone: timm has no model 'tinynett'"):
        build_model(new_spec(ModelOptions(backbone="tinynett"), get_space("basic")))


def test_a_package_cannot_take_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "bad", {"fer.losses": {"ce": "bad:loss", "broken": "bad:loss"}, "fer.commands": {"train": "bad"}})
    monkeypatch.syspath_prepend(tmp_path)
    assert LOSSES.references() == {**LOSSES.builtin, "broken": "bad:loss"}
    assert LOSSES.load("ce").__module__ == "fer.classifier.losses"
    with pytest.raises(UserError, match="--loss bad:loss: cannot be imported: No module named 'bad'"):
        LOSSES.load("broken")
    assert all_commands()["train"] == JOBS["train"]


@pytest.mark.parametrize("registry", [SOURCES, LOSSES, REWARDS, APPS], ids=lambda registry: registry.group)
def test_every_builtin_name_can_be_imported(registry: Registry) -> None:
    for name in registry.builtin:
        assert callable(registry.load(name))


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_losses.py").write_text("class Losses:\n    zero = 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    assert load_object("my_own_losses:Losses.zero", "--loss") == 0
    with pytest.raises(UserError, match="--loss my_own_losses:nothing: cannot be imported: module 'my_own_losses'"):
        load_object("my_own_losses:nothing", "--loss")
