from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.answers import answer_part, parse_label
from fer.ferbench.datasets import FERBENCH_DATASETS, dataset_labels

RAFDB, FERPLUS = dataset_labels("rafdb"), dataset_labels("ferplus")


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("<think>Not fear.</think><answer>surprise</answer>", "surprise"),
        ("<think>Not fear.</think>\n<Answer>\nSurprise.\n</Answer>", "surprise"),
        ("surprise", "surprise"),
        ("The expression is **sadness**.", "sadness"),
        ("<answer>sad</answer>", "sadness"),
        ("<answer>angry</answer>", "anger"),
        ("<answer>surprised</answer>", "surprise"),
        ("<answer>unhappy</answer>", "unknown"),
        ("<answer>fearless</answer>", "unknown"),
        ("<answer>joy</answer>", "unknown"),
        ("<answer>made of stone</answer>", "unknown"),
        ("<answer>fear and surprise</answer>", "unknown"),
        ("<answer>fear, or fearful surprise</answer>", "unknown"),
        ("<answer>happy happiness</answer>", "happiness"),
        ("<answer>fear</answer><answer>anger</answer>", "unknown"),
        ("<answer>fear</answer><answer>fear</answer>", "fear"),
        ("<answer></answer> fear", "unknown"),
        ("<think>fear</think><answer>unclear</answer>", "unknown"),
        ("<think>It must be fear", "unknown"),
        ("<think>Not fear.</think> So: anger", "anger"),
        ("Not fear, so anger.", "unknown"),
        ('{"emotion": "disgust", "confidence": 0.9}', "disgust"),
        ('```json\n{"Answer": "Happy", "reason": "no fear at all"}\n```', "happiness"),
        ('{"confidence": 0.9}', "unknown"),
        ('["fear"]', "fear"),
        ("contempt", "unknown"),
        ("", "unknown"),
        ("高兴", "unknown"),
        ("很 happy！", "happiness"),
    ],
)
def test_only_whole_words_of_the_answer_count(response: str, label: str) -> None:
    assert parse_label(response, RAFDB) == label


def test_labels_keep_the_spelling_of_their_data_set() -> None:
    assert parse_label("happiness", FERPLUS) == "happy"
    assert parse_label("Anger", FERPLUS) == "angry"
    assert parse_label("very confused", ("confused", "bored")) == "confused"


@pytest.mark.parametrize("name", FERBENCH_DATASETS)
def test_every_label_is_parsed_in_every_form(name: str) -> None:
    for label in dataset_labels(name):
        for response in (label, label.upper(), f"<answer>{label}</answer>", json.dumps({"label": label})):
            assert parse_label(response, dataset_labels(name)) == label


@given(st.text())
def test_any_text_is_a_label_or_unknown(text: str) -> None:
    assert parse_label(text, RAFDB) in (*RAFDB, "unknown")


@given(st.text(alphabet="abcdefghijklm <>/", max_size=40), st.sampled_from(RAFDB))
def test_reasoning_never_changes_the_answer(reasoning: str, label: str) -> None:
    assert parse_label(f"<think>{reasoning} fear anger</think><answer>{label}</answer>", RAFDB) == label


def test_the_answer_part() -> None:
    assert answer_part("<think>a</think>b<answer>c</answer>") == "c"
    assert answer_part("<think>a</think>b") == "b"
    assert answer_part('{"answer": "a", "other": "b"}') == "a"
