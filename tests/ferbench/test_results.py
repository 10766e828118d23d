"""Results files of Ferry and of UniFER's scripts, and their evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fer.data.sources.ferplus import COLUMNS
from fer.errors import UserError
from fer.ferbench.collect import clear_majority_images, collect_results, filter_images
from fer.ferbench.datasets import dataset_labels
from fer.ferbench.differences import ERROR, PART_OF_WORD, REASONING, SEVERAL, SYNONYM
from fer.ferbench.evaluate import evaluate_model
from fer.ferbench.predictions import predicted_labels
from fer.ferbench.results import error_row, read_results, response_row, write_results


def row(dataset: str, label: str, number: int = 0) -> dict[str, Any]:
    return {
        "image_path": f"/{dataset}/{number}.png",
        "true_label": label,
        "prompt": "Which?",
        "candidate_labels": list(dataset_labels(dataset)),
    }


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    write_results(rows, path)
    return str(path)


def test_rows_have_unifer_s_form(tmp_path: Path) -> None:
    """The question's own fields, `model_response`, and `error` if there was one, as its scripts expect them."""
    question = row("rafdb", "fear") | {"id": 7}
    rows = [response_row(question, ["<answer>fear</answer>"], 0, 0), error_row(question, "missing image")]
    path = written(tmp_path / "rafdb.json", rows)
    assert json.loads(Path(path).read_text()) == [
        question | {"model_response": "<answer>fear</answer>"},
        question | {"model_response": "ERROR: missing image", "error": True},
    ]
    file = read_results(path)
    assert file.dataset == "rafdb"
    assert [result.error for result in file.results] == [None, "missing image"]
    assert predicted_labels(file, "unifer") == predicted_labels(file, "strict") == ["fear", None]


@pytest.mark.parametrize("dataset", ["rafdb", "ferplus", "affectnet", "sfew"])
def test_data_sets_are_identified_by_their_labels(dataset: str, tmp_path: Path) -> None:
    label = dataset_labels(dataset)[0]
    assert (
        read_results(written(tmp_path / "x.json", [response_row(row(dataset, label), [label], 0, 0)])).name == dataset
    )


def test_other_labels_have_the_strict_protocol_only(tmp_path: Path) -> None:
    question = row("rafdb", "bored") | {"candidate_labels": ["bored", "confused"]}
    file = read_results(written(tmp_path / "mine.json", [response_row(question, ["Bored!"], 0, 0)]))
    assert (file.dataset, file.name) == (None, "mine")
    assert predicted_labels(file, "unifer") is None
    assert predicted_labels(file, "strict") == ["bored"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no results"),
        ('[{"image_path": "x", "prompt": "y", "true_label": "fear", "candidate_labels": ["fear"]}]', "model_response"),
        ('[{"image_path": "x", "prompt": "y", "model_response": "z"}]', "true_label"),
        ("nonsense", "neither a JSON array"),
        ('[{"image_path": "x"', "not valid JSON"),
    ],
)
def test_an_invalid_file_is_a_one_line_error(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(str(tmp_path / "x.json"))


RESPONSES = [
    ("fear", "<answer>fear</answer>", None),
    ("fear", "<think>x</think><answer>fear</answer>", None),
    ("fear", "<answer>fear or anger</answer>", SEVERAL),
    ("fear", "<think>It is fear.</think><answer>unclear</answer>", REASONING),
    ("fear", "<answer>fearless</answer>", PART_OF_WORD),
    ("fear", "<answer>fright</answer>", SYNONYM),
    ("fear", "", ERROR),
]


def test_differences_between_the_protocols_are_explained(tmp_path: Path) -> None:
    rows = [
        error_row(row("rafdb", label, i), "empty file")
        if reason == ERROR
        else response_row(row("rafdb", label, i), [response], 0, 0)
        for i, (label, response, reason) in enumerate(RESPONSES)
    ]
    [model] = collect_results([written(tmp_path / "rafdb.json", rows)])
    [subset] = evaluate_model(model, None, 0).subsets
    assert subset.unifer is not None
    assert subset.unifer.accuracy.value == 1
    assert subset.strict.accuracy.value == pytest.approx(2 / 7)
    assert {each.reason: each.rows for each in subset.differences} == {
        reason: 1 for _, _, reason in RESPONSES if reason
    }
    several = next(each for each in subset.differences if each.reason == SEVERAL)
    assert (several.right_in_unifer, several.right_in_strict) == (1, 0)
    assert several.examples[0].response == "<answer>fear or anger</answer>"


def test_pooled_data_sets_share_label_names(tmp_path: Path) -> None:
    """angry, happy and sad are pooled with anger, happiness and sadness."""
    paths = [
        written(
            tmp_path / f"{name}.json", [response_row(row(name, label, i), [label], 0, 0) for i, label in enumerate(ls)]
        )
        for name, ls in ((name, dataset_labels(name)) for name in ("rafdb", "ferplus", "affectnet", "sfew"))
    ]
    [model] = collect_results(paths)
    pooled = evaluate_model(model, None, 0).subset("pooled")
    assert pooled is not None
    assert (pooled.title, pooled.questions) == ("all four", 30)
    assert pooled.strict.accuracy.value == 1
    assert {each.label: each.support for each in pooled.strict.classes} == {
        "anger": 4, "contempt": 2, "disgust": 4, "fear": 4, "happiness": 4, "neutral": 4, "sadness": 4, "surprise": 4,
    }  # fmt: skip
    assert not pooled.differences


def test_compound_labels_ignore_the_order_of_the_turns(tmp_path: Path) -> None:
    question = {**row("rafdb", "sadly angry"), "candidate_labels": list(dataset_labels("rafdb"))}
    pairs = [["sadness", "anger"], ["Anger.", "sad"], ["anger", "fear"], ["neutral", "anger"], ["anger"], ["?", "fear"]]
    file = read_results(written(tmp_path / "c.json", [response_row(question, pair, 0, 0) for pair in pairs]))
    assert file.dataset == "rafdb-compound"
    assert predicted_labels(file, "strict") == ["sadly angry"] * 2 + ["fearfully angry"] + ["unknown"] * 3
    assert predicted_labels(file, "unifer") is None


def test_two_files_of_one_data_set_are_rejected(tmp_path: Path) -> None:
    rows = [response_row(row("rafdb", "fear"), ["fear"], 0, 0)]
    with pytest.raises(UserError, match="two files of rafdb"):
        collect_results([written(tmp_path / "a.json", rows), written(tmp_path / "b.json", rows)])


def test_ferplus_has_421_images_without_a_majority(shared_data: Path, tmp_path: Path) -> None:
    questions = json.loads((shared_data / "ferbench/ferplus_qa.json").read_text())
    file = read_results(written(tmp_path / "f.json", [response_row(q, [q["true_label"]], 0, 0) for q in questions]))
    clear = clear_majority_images(str(shared_data / "ferplus/fer2013new.csv"))
    assert len(file.results) == 3573
    assert len(filter_images(file, clear).results) == 3573 - 421


def test_a_file_without_votes_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="--ferplus-votes"):
        clear_majority_images(str(tmp_path / "votes.csv"))
    columns = ",".join(("Usage", "Image name", *COLUMNS))
    (tmp_path / "votes.csv").write_text(f"{columns}\nTraining,fer0000000.png,1,9")  # cut off
    with pytest.raises(UserError, match="not whole numbers: download it again"):
        clear_majority_images(str(tmp_path / "votes.csv"))
