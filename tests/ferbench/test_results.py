"""Results files of ours and of UniFER's scripts, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fer.errors import UserError
from fer.ferbench.collect import clear_majority, collect, only_clear
from fer.ferbench.datasets import labels_of
from fer.ferbench.differences import ERROR, PART_OF_WORD, REASONING, SEVERAL, SYNONYM
from fer.ferbench.evaluate import judge
from fer.ferbench.predictions import predictions
from fer.ferbench.results import answered, failed, read_results, write_results


def row(dataset: str, label: str, number: int = 0) -> dict[str, Any]:
    return {
        "image_path": f"/{dataset}/{number}.png",
        "true_label": label,
        "prompt": "Which?",
        "candidate_labels": list(labels_of(dataset)),
    }


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    write_results(rows, path)
    return str(path)


def test_the_form_is_unifers(tmp_path: Path) -> None:
    """The question's own fields, `model_response`, and `error` where there was one, as its scripts look for them."""
    question = row("rafdb", "fear") | {"id": 7}
    rows = [answered(question, ["<answer>fear</answer>"], 0, 0), failed(question, "missing image")]
    path = written(tmp_path / "rafdb.json", rows)
    assert json.loads(Path(path).read_text()) == [
        question | {"model_response": "<answer>fear</answer>"},
        question | {"model_response": "ERROR: missing image", "error": True},
    ]
    file = read_results(path)
    assert file.dataset == "rafdb"
    assert [result.error for result in file.results] == [None, "missing image"]
    assert predictions(file, "unifer") == predictions(file, "strict") == ["fear", None]


@pytest.mark.parametrize("dataset", ["rafdb", "ferplus", "affectnet", "sfew"])
def test_data_sets_are_known_by_their_labels(dataset: str, tmp_path: Path) -> None:
    label = labels_of(dataset)[0]
    assert read_results(written(tmp_path / "x.json", [answered(row(dataset, label), [label], 0, 0)])).name == dataset


def test_other_labels_are_scored_strictly_only(tmp_path: Path) -> None:
    question = row("rafdb", "bored") | {"candidate_labels": ["bored", "confused"]}
    file = read_results(written(tmp_path / "mine.json", [answered(question, ["Bored!"], 0, 0)]))
    assert (file.dataset, file.name) == (None, "mine")
    assert predictions(file, "unifer") is None
    assert predictions(file, "strict") == ["bored"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "no results"),
        ('[{"image_path": "x", "prompt": "y", "true_label": "fear", "candidate_labels": ["fear"]}]', "model_response"),
        ('[{"image_path": "x", "prompt": "y", "model_response": "z"}]', "true_label"),
        ("nonsense", "neither a JSON array"),
        ('[{"image_path": "x"', "not JSON to its end"),
    ],
)
def test_a_file_that_is_none_is_one_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=says):
        read_results(str(tmp_path / "x.json"))


SAID = [
    ("fear", "<answer>fear</answer>", None),
    ("fear", "<think>x</think><answer>fear</answer>", None),
    ("fear", "<answer>fear or anger</answer>", SEVERAL),
    ("fear", "<think>It is fear.</think><answer>unclear</answer>", REASONING),
    ("fear", "<answer>fearless</answer>", PART_OF_WORD),
    ("fear", "<answer>fright</answer>", SYNONYM),
    ("fear", "", ERROR),
]


def test_what_sets_the_protocols_apart_is_explained(tmp_path: Path) -> None:
    rows = [
        failed(row("rafdb", label, i), "empty file") if why == ERROR else answered(row("rafdb", label, i), [said], 0, 0)
        for i, (label, said, why) in enumerate(SAID)
    ]
    [model] = collect([written(tmp_path / "rafdb.json", rows)])
    [part] = judge(model, None, 0).parts
    assert part.unifer is not None
    assert part.unifer.accuracy.value == 1
    assert part.strict.accuracy.value == pytest.approx(2 / 7)
    assert {each.reason: each.rows for each in part.differences} == {why: 1 for _, _, why in SAID if why}
    several = next(each for each in part.differences if each.reason == SEVERAL)
    assert (several.right_in_unifer, several.right_in_strict) == (1, 0)
    assert several.examples[0].response == "<answer>fear or anger</answer>"


def test_all_data_sets_together_share_names(tmp_path: Path) -> None:
    """angry, happy and sad are pooled with anger, happiness and sadness."""
    paths = [
        written(tmp_path / f"{name}.json", [answered(row(name, label, i), [label], 0, 0) for i, label in enumerate(ls)])
        for name, ls in ((name, labels_of(name)) for name in ("rafdb", "ferplus", "affectnet", "sfew"))
    ]
    [model] = collect(paths)
    pooled = judge(model, None, 0).part("pooled")
    assert pooled is not None
    assert (pooled.title, pooled.questions) == ("all four", 30)
    assert pooled.strict.accuracy.value == 1
    assert {each.label: each.support for each in pooled.strict.classes} == {
        "anger": 4, "contempt": 2, "disgust": 4, "fear": 4, "happiness": 4, "neutral": 4, "sadness": 4, "surprise": 4,
    }  # fmt: skip
    assert not pooled.differences


def test_compound_answers_are_mapped_without_order(tmp_path: Path) -> None:
    question = {**row("rafdb", "sadly angry"), "candidate_labels": list(labels_of("rafdb"))}
    pairs = [["sadness", "anger"], ["Anger.", "sad"], ["anger", "fear"], ["neutral", "anger"], ["anger"], ["?", "fear"]]
    file = read_results(written(tmp_path / "c.json", [answered(question, pair, 0, 0) for pair in pairs]))
    assert file.dataset == "rafdb-compound"
    assert predictions(file, "strict") == ["sadly angry"] * 2 + ["fearfully angry"] + ["unknown"] * 3
    assert predictions(file, "unifer") is None


def test_two_files_of_one_data_set_are_refused(tmp_path: Path) -> None:
    rows = [answered(row("rafdb", "fear"), ["fear"], 0, 0)]
    with pytest.raises(UserError, match="two files of rafdb"):
        collect([written(tmp_path / "a.json", rows), written(tmp_path / "b.json", rows)])


def test_ferplus_has_421_images_without_a_majority(shared_data: Path, tmp_path: Path) -> None:
    questions = json.loads((shared_data / "ferbench/ferplus_qa.json").read_text())
    file = read_results(written(tmp_path / "f.json", [answered(q, [q["true_label"]], 0, 0) for q in questions]))
    clear = clear_majority(str(shared_data / "ferplus/fer2013new.csv"))
    assert len(file.results) == 3573
    assert len(only_clear(file, clear).results) == 3573 - 421


def test_another_file_of_votes_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="--ferplus-votes"):
        clear_majority(str(tmp_path / "votes.csv"))
