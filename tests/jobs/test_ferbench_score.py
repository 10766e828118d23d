"""`fer ferbench score` and `report`, and the protocols."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fer.errors import UserError
from fer.ferbench import run as ferbench_run
from fer.ferbench.models import describe_generation, list_models
from fer.ferbench.options import FerbenchRunConfig
from fer.ferbench.run import read_questions_files
from fer.inference.batch import InferenceConfig
from jobs.__main__ import main
from tests.fixtures.ferbench import FACES, respond, results, run


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


def test_how_responses_are_generated_is_said(tiny_models: Path) -> None:
    """UniFER's script inherits the model's generation config in fp32; Ferry's default does not."""
    from transformers import GenerationConfig

    folder = str(tiny_models / "qwen2.5-vl")
    config = FerbenchRunConfig(model=folder, questions=["q.json"], image_root=".", out="out", max_new_tokens=1024)
    unifer = config.model_copy(update={"protocol": "unifer"})
    assert describe_generation(folder, config) == (
        "greedy, up to 1,024 tokens, in the model's data type (fp32 on CPUs without fast bf16), "
        "without a repetition penalty"
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


def test_other_labels_have_no_unifer_metrics(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"image_path": "x", "prompt": "?", "true_label": "bored", "candidate_labels": ["bored", "keen"]}
    (workspace / "mine.json").write_text(json.dumps([row | {"model_response": "bored"}]))
    assert main(["ferbench", "score", "mine.json", "--protocol", "unifer"]) == 2
    assert "use strict" in capsys.readouterr().err
    assert main(["ferbench", "score", "mine.json"]) == 0
    assert "100.0%" in capsys.readouterr().out


def test_labels_of_no_data_set_are_reported(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [dict(row) for row in results("sfew_qa.json")[:4]]
    rows[2]["true_label"] = "Sadness"
    (workspace / "wrong.json").write_text(json.dumps([row | {"model_response": "sad"} for row in rows]))
    assert main(["ferbench", "score", "wrong.json"]) == 2
    assert "wrong.json, row 3: true_label 'Sadness' is none of" in capsys.readouterr().err
    with pytest.raises(UserError, match="row 3: true_label 'Sadness'"):
        read_questions_files(["wrong.json"])


def test_results_within_the_run_of_a_training(workspace: Path) -> None:
    """The training has a record of the same name."""
    Path("runs/grpo/ferbench/m").mkdir(parents=True)
    Path("runs/grpo/run.json").write_text(json.dumps({"name": "grpo", "config": {}}))
    record = {"name": "m", "questions": {"sfew_qa": "hash"}}
    Path("runs/grpo/ferbench/m/run.json").write_text(json.dumps(record))
    rows = [row | {"model_response": "sad"} for row in results("sfew_qa.json")[:4]]
    Path("runs/grpo/ferbench/m/sfew_qa.json").write_text(json.dumps(rows))
    assert main(["ferbench", "score", "runs/grpo", "--json", "new/metrics.json"]) == 0
    [scored] = json.loads(Path("new/metrics.json").read_text())["models"]
    assert scored["model"] == "m"


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
