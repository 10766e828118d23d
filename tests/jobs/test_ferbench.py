"""`fer ferbench run`: a classifier on Ray, endpoints, resumed runs, and mistakes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fer.data.vqa.prompts import first_turn_prompt, second_turn_prompt
from fer.labels import get_space
from fer.storage import open_path
from jobs.__main__ import main
from tests.fixtures.ferbench import FACES, SFEW, respond, results, run
from tests.fixtures.object_store import ObjectStore


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
