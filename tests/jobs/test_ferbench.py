"""`fer ferbench` from the command line: a classifier on Ray, endpoints, killed processes, metrics and the report."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fer.data.images import encode_png
from fer.data.vqa.prompts import ferbench_prompt, first_turn_prompt, second_turn_prompt
from fer.ferbench import run as ferbench_run
from fer.ferbench.models import describe_generation, list_models
from fer.ferbench.options import FerbenchRunConfig
from fer.ferbench.run import read_questions_files
from fer.inference.batch import InferenceConfig
from fer.labels import get_space
from fer.storage import open_path
from jobs.__main__ import main
from tests.fixtures.object_store import ObjectStore

ROOT = Path(__file__).parents[2]
SFEW = get_space("sfew").labels
FACES = 60


@pytest.fixture
def workspace(make_classifier: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a classifier, sixty images (one broken), and SFEW questions about them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    make_classifier(tmp_path / "one")
    (tmp_path / "images").mkdir()
    for i in range(FACES):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        (tmp_path / f"images/{i}.png").write_bytes(encode_png(pixels))
    (tmp_path / "images/7.png").write_bytes(b"no image")
    rows = [
        {"image_path": f"/SFEW/{i}.png", "true_label": SFEW[i % 7], "prompt": ferbench_prompt(SFEW),
         "candidate_labels": list(SFEW)}
        for i in range(FACES)
    ]  # fmt: skip
    (tmp_path / "sfew_qa.json").write_text(json.dumps(rows))
    return tmp_path


def run(*arguments: str, questions: str = "sfew_qa.json", out: str = "out") -> int:
    return main(["ferbench", "run", *arguments, "--questions", questions, "--image-root", "images", "--out", out])


def results(path: str) -> list[dict[str, Any]]:
    return json.loads(Path(path).read_text())


@pytest.mark.slow
def test_a_classifier_runs_on_ray(workspace: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("one", "--device", "cpu") == 0
    rows = results("out/one/sfew_qa.json")
    assert [row["image_path"] for row in rows] == [f"/SFEW/{i}.png" for i in range(FACES)]
    assert [i for i, row in enumerate(rows) if row.get("error")] == [7]
    assert rows[7]["model_response"] == "ERROR: not an image of a supported format"
    assert {row["model_response"] for row in rows if not row.get("error")} <= {f"<answer>{e}</answer>" for e in SFEW}
    assert "60 questions, 1 with errors" in capsys.readouterr().out


def test_only_errors_are_retried(workspace: Path, chat_server: Callable[..., Any]) -> None:
    server = chat_server(respond)
    assert run("m", "--endpoint", server.url) == 0
    rows = results("out/m/sfew_qa.json")
    assert len(server.requests) == FACES - 1
    assert run("m", "--endpoint", server.url) == 0
    assert len(server.requests) == FACES - 1
    assert results("out/m/sfew_qa.json") == rows
    (workspace / "images/7.png").write_bytes((workspace / "images/8.png").read_bytes())
    assert run("m", "--endpoint", server.url) == 0
    assert len(server.requests) == FACES
    repaired = results("out/m/sfew_qa.json")
    assert repaired[7]["model_response"] == repaired[8]["model_response"]
    assert repaired[:7] + repaired[8:] == rows[:7] + rows[8:]


@pytest.mark.slow
def test_answers_in_an_object_store(
    workspace: Path, chat_server: Callable[..., Any], s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer.inference.journal.UPLOAD_SECONDS", 0)  # every line is an object
    server = chat_server(respond)
    assert run("m", "--endpoint", server.url, out="s3://bucket/answers") == 0
    folder = open_path("s3://bucket/answers/m")
    journal = list((folder / "journal").glob("*.jsonl"))
    assert len(journal) == FACES
    next(file for file in journal if "responses" in file.read_text()).unlink()  # as if its client had been killed
    assert run("m", "--endpoint", server.url, out="s3://bucket/answers") == 0
    assert len(server.requests) == FACES
    assert run("m", "--endpoint", server.url) == 0
    assert (folder / "sfew_qa.json").read_text() == Path("out/m/sfew_qa.json").read_text()
    assert main(["ferbench", "score", "s3://bucket/answers", "--json", "metrics.json"]) == 0
    [model] = json.loads(Path("metrics.json").read_text())["models"]
    assert model["subsets"][0]["questions"] == FACES


@pytest.mark.slow
def test_models_are_evaluated_and_reported_side_by_side(
    workspace: Path, chat_server: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("one", "--endpoint", chat_server(respond).url) == 0
    assert run("two", "--endpoint", chat_server(lambda request: "unhappy").url) == 0
    capsys.readouterr()
    assert main(["ferbench", "score", "out", "--json", "metrics.json"]) == 0
    output = capsys.readouterr().out
    assert "Metrics, unifer" in output
    assert "Metrics, strict" in output
    metrics = json.loads(Path("metrics.json").read_text())
    one, two = (model["subsets"][0] for model in metrics["models"])
    rows = results("out/one/sfew_qa.json")
    correct = sum(row["model_response"].endswith(f"<answer>{row['true_label']}</answer>") for row in rows)
    assert one["strict"]["accuracy"]["value"] == pytest.approx(correct / FACES)
    assert one["unifer"]["accuracy"]["value"] == pytest.approx(correct / (FACES - 1))
    assert one["strict"]["errors"] == 1
    assert (two["strict"]["accuracy"]["value"], two["strict"]["unknowns"]) == (0, FACES - 1)
    happy = sum(row["true_label"] == "happy" for row in rows if not row.get("error"))
    assert two["unifer"]["accuracy"]["value"] == pytest.approx(happy / (FACES - 1))
    assert [each["rows"] for each in two["differences"]] == [FACES - 1, 1]
    assert metrics["comparisons"][0]["questions"] == FACES

    assert main(["ferbench", "score", "out", "--protocol", "strict"]) == 0
    assert "Metrics, unifer" not in capsys.readouterr().out
    assert main(["ferbench", "report", "out", "--out", "page", "--samples", "3"]) == 0
    page = Path("page/report.html").read_text()
    assert page.count("<details>") == 6 + 3  # the second model is never correct
    assert "SFEW 2.0" in page
    assert "| one |" in Path("page/leaderboard.md").read_text()
    assert main(["ferbench", "report", "out", "--out", "bare", "--no-thumbnails"]) == 0
    assert "<details>" not in Path("bare/report.html").read_text()


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_worker_is_replaced(
    workspace: Path, ray_cluster: None, own_processes: Callable[[str], list[int]]
) -> None:
    """Its process is killed after some responses; the results are the same in the end."""
    assert run("one", "--device", "cpu", "--name", "undisturbed") == 0
    many = results("sfew_qa.json") * 30
    (workspace / "many.json").write_text(json.dumps(many))
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            journals = list(Path("out/killed/journal").glob("*.jsonl"))
            if journals and len(journals[0].read_bytes().splitlines()) > 100:
                found = own_processes("MapWorker")
                for pid in found:
                    os.kill(pid, signal.SIGKILL)
                killed.extend(found)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    assert run("one", "--device", "cpu", "--name", "killed", "--max-bad-fraction", "1", questions="many.json") == 0
    thread.join()
    assert killed
    assert results("out/killed/many.json") == results("out/undisturbed/sfew_qa.json") * 30


@pytest.mark.slow
def test_compound_expressions_take_two_turns(workspace: Path, ray_cluster: None) -> None:
    basic = get_space("rafdb").labels
    rows = []
    for i in range(22):
        label = get_space("rafdb-compound").labels[i % 11]
        turns = [
            {"question": first_turn_prompt(basic), "response": "fear"},
            {"question": second_turn_prompt("fear", basic), "response": "anger"},
        ]
        rows.append({"image_path": f"{i}.png", "turns": turns, "answer": label, "candidate_labels": list(basic)})
    (workspace / "compound.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("one", "--device", "cpu", "--max-bad-fraction", "0.1", questions="compound.jsonl") == 0
    found = results("out/one/compound.json")
    assert all(len(set(row["model_responses"])) == 2 for row in found if not row.get("error"))
    assert main(["ferbench", "score", "out", "--json", "metrics.json"]) == 0
    [subset] = json.loads(Path("metrics.json").read_text())["models"][0]["subsets"]
    assert (subset["name"], subset["unifer"], subset["questions"]) == ("rafdb-compound", None, 22)
    assert len(subset["strict"]["labels"]) == 11


def image_of(request: dict[str, Any]) -> bytes:
    return base64.b64decode(request["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])


def respond(request: dict[str, Any]) -> str:
    """A response that is a function of the image."""
    digest = hashlib.sha256(image_of(request)).digest()
    return f"<think>{digest.hex()[: digest[0]]}</think><answer>{SFEW[digest[1] % 7]}</answer>"


def test_many_models_in_one_call(workspace: Path, chat_server: Callable[..., Any]) -> None:
    server = chat_server(respond)
    entries = [
        {"model": "org/large", "endpoint": server.url, "concurrency": 4, "price_in": 1, "price_out": 4},
        {"model": "org/small", "name": "tiny", "endpoint": server.url, "requests_per_minute": 6000},
    ]
    (workspace / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    assert run("--models", "models.yaml") == 0
    assert results("out/large/sfew_qa.json") == results("out/tiny/sfew_qa.json")
    assert Counter(request["model"] for request in server.requests) == {"org/large": FACES - 1, "org/small": FACES - 1}
    usage = json.loads(Path("out/large/run.json").read_text())["usage"]
    assert usage["cost"] == pytest.approx((FACES - 1) * (80 * 1 + 5 * 4) / 1e6)
    assert usage["responses"] == FACES - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "--questions is required"),
        (["run", "--questions", "sfew_qa.json", "--image-root", "images", "--out", "o"], "name one MODEL"),
        (["run", "nowhere", "--questions", "sfew_qa.json", "--image-root", "images", "--out", "o"], "nowhere"),
        (["run", "one", "--questions", "gone.json", "--image-root", "images", "--out", "o"], "gone.json"),
        (["run", "one", "--questions", "sfew_qa.json", "--image-root", "one", "--out", "o"], "--image-root"),
        (["run", "--models", "no.yaml", "--questions", "sfew_qa.json", "--image-root", "images", "--out", "o"], "no.y"),
        (["score", "nowhere.json"], "no such file"),
        (["score", "images"], "holds no run.json"),
        (["score", "sfew_qa.json"], "no model_response"),
        (["score", "sfew_qa.json", "--protocol", "mild"], "--protocol"),
        (["judge"], "unknown command 'judge'"),
    ],
)
def test_mistakes_are_one_line_errors(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["ferbench", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_how_responses_are_generated_is_said(tiny_models: Path) -> None:
    """UniFER's script inherits the model's generation config in fp32; Ferry's default does not."""
    from transformers import GenerationConfig

    folder = str(tiny_models / "qwen2.5-vl")
    config = FerbenchRunConfig(model=folder, questions=["q.json"], image_root=".", out="out", max_new_tokens=1024)
    unifer = config.model_copy(update={"protocol": "unifer"})
    assert describe_generation(folder, config) == (
        "greedy, up to 1,024 tokens, in the model's data type, without a repetition penalty"
    )
    with tempfile.TemporaryDirectory() as scratch:
        GenerationConfig(repetition_penalty=1.05).save_pretrained(scratch)
        assert describe_generation(scratch, unifer).endswith("in fp32, with the model's repetition penalty (1.05)")
        assert describe_generation(scratch, config).endswith("; the model's penalty of 1.05 is for --protocol unifer")


@pytest.mark.parametrize(
    ("protocol", "dtype", "model_penalty"), [("ferry", "auto", False), ("unifer", "float32", True)]
)
def test_a_protocol_sets_data_type_and_penalty(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, dtype: str, model_penalty: bool
) -> None:
    found: list[InferenceConfig] = []

    def record(items: Any, inference: InferenceConfig, workers: int) -> Iterator[int]:
        found.append(inference)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(ferbench_run, "run_batch", record)
    config = FerbenchRunConfig(
        model="m",
        questions=["sfew_qa.json"],
        image_root="images",
        out="out",
        protocol=protocol,  # type: ignore[arg-type]
    )
    [model] = list_models(config)
    with pytest.raises(KeyboardInterrupt):
        list(ferbench_run.run_model(model, "vllm", "m", read_questions_files(config.questions), config))
    [inference] = found
    assert (inference.dtype, inference.sampling.model_penalty, inference.sampling.temperature) == (
        dtype,
        model_penalty,
        0,
    )


def test_an_endpoint_can_t_follow_unifer_s_protocol(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("m", "--endpoint", "http://localhost:1/v1", "--protocol", "unifer") == 2
    assert "m is at an endpoint" in capsys.readouterr().err


def test_two_cpus_are_enough(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of one node and in a container with few CPUs, whatever number the machine has."""
    asked: list[float] = []

    def connect(cpus: float, **options: Any) -> None:
        asked.append(cpus)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr("cluster.local.connect", connect)
    assert run("one", "--device", "cpu") == 130
    assert asked == [2]


def test_two_files_of_questions_need_two_names(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "more").mkdir()
    (workspace / "more/sfew_qa.json").write_bytes((workspace / "sfew_qa.json").read_bytes())
    arguments = ["--questions", "sfew_qa.json", "more/sfew_qa.json", "--image-root", "images", "--out", "out"]
    assert main(["ferbench", "run", "one", *arguments]) == 2
    assert "two files are named sfew_qa" in capsys.readouterr().err


def test_other_labels_have_no_unifer_metrics(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"image_path": "x", "prompt": "?", "true_label": "bored", "candidate_labels": ["bored", "keen"]}
    (workspace / "mine.json").write_text(json.dumps([row | {"model_response": "bored"}]))
    assert main(["ferbench", "score", "mine.json", "--protocol", "unifer"]) == 2
    assert "use strict" in capsys.readouterr().err
    assert main(["ferbench", "score", "mine.json"]) == 0
    assert "100.0%" in capsys.readouterr().out


def test_an_error_without_a_message_is_scored_as_an_error(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = results("sfew_qa.json")[:4]
    scored = [row | {"model_response": f"<answer>{row['true_label']}</answer>"} for row in rows[:2]]
    scored += [rows[2] | {"model_response": "ERROR: ", "error": True}, rows[3] | {"model_response": "", "error": True}]
    (workspace / "scored.json").write_text(json.dumps(scored))
    assert main(["ferbench", "score", "scored.json", "--json", "metrics.json"]) == 0
    [model] = json.loads(Path("metrics.json").read_text())["models"]
    [subset] = model["subsets"]
    assert (subset["strict"]["errors"], subset["strict"]["rows"], subset["strict"]["accuracy"]["value"]) == (2, 4, 0.5)
    assert (subset["unifer"]["errors"], subset["unifer"]["rows"], subset["unifer"]["accuracy"]["value"]) == (2, 2, 1)
    assert main(["ferbench", "report", "scored.json", "--out", "page"]) == 0


def test_results_of_other_settings_are_not_mixed(
    workspace: Path, chat_server: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = ("m", "--endpoint", chat_server(respond).url)
    assert run(*endpoint) == 0
    assert run(*endpoint, "--image-size", "448") == 2
    assert "image_size" in capsys.readouterr().err
    (workspace / "sfew_qa.json").write_text(json.dumps(results("sfew_qa.json")[:30]))
    assert run(*endpoint) == 2
    assert "sfew_qa" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.slow
def test_a_run_that_is_killed_three_times_has_the_same_results(
    shared_data: Path, tmp_path: Path, chat_server: Callable[..., Any]
) -> None:
    """Questions of FERPlus, killed at random moments: only running requests are repeated, and none is lost."""
    server = chat_server(respond)
    concurrency, count = 8, 1200
    questions = json.loads((shared_data / "ferbench/ferplus_qa.json").read_text())[:count]
    (tmp_path / "ferplus_qa.json").write_text(json.dumps(questions))

    def command(out: str) -> list[str]:
        return [
            *("ferbench", "run", "m", "--endpoint", server.url, "--concurrency", str(concurrency)),
            *("--questions", str(tmp_path / "ferplus_qa.json"), "--image-size", "0"),
            *("--image-root", str(shared_data / "ferplus/ferplus_test_images.zip"), "--out", str(tmp_path / out)),
        ]

    draws = random.Random()
    stops = sorted(draws.sample(range(100, count - 100), 3))
    for stop in stops:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs", *command("killed")],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while len(server.requests) < stop:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command("killed")) == 0
    sent = Counter(hashlib.sha256(image_of(request)).digest() for request in server.requests)
    assert len(server.requests) <= count + 3 * concurrency, f"stopped at {stops}"

    server.requests.clear()
    assert main(command("undisturbed")) == 0
    assert sent.keys() == {hashlib.sha256(image_of(request)).digest() for request in server.requests}
    one, other = (tmp_path / name / "m/ferplus_qa.json" for name in ("killed", "undisturbed"))
    assert one.read_bytes() == other.read_bytes()
    assert len(results(str(one))) == count
