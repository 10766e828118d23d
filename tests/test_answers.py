import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.answers import extract_answer, is_correct, same_label, well_formed

FORMED = "<think>The brows are raised.</think>\n<answer>surprise</answer>"


def test_reads_the_first_tagged_answer() -> None:
    assert extract_answer(FORMED) == "surprise"
    assert extract_answer("<answer> a\nb </answer><answer>c</answer>") == "a\nb"
    assert extract_answer("surprise") is None
    assert extract_answer("<answer>surprise") is None


@given(st.text(), st.text().filter(lambda text: "<" not in text))
def test_finds_any_answer_after_any_reasoning(reasoning: str, answer: str) -> None:
    if "<answer>" not in reasoning:
        assert extract_answer(f"<think>{reasoning}</think><answer>{answer}</answer>") == answer.strip()


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        (FORMED, True),
        (f"  {FORMED}\n", True),
        ("<answer>surprise</answer>", False),
        ("<think>a</think>", False),
        (f"{FORMED} I am sure.", False),
        ("<think>a</think> so <answer>b</answer>", False),
    ],
)
def test_form(text: str, formed: bool) -> None:
    assert well_formed(text) is formed


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Happy", "happiness", True),
        ("sadly  angry", "Sadly angry", True),
        ("angry", "anger", True),
        ("unhappy", "happy", False),
        ("puzzled", "confused", False),
    ],
)
def test_labels_that_mean_the_same(one: str, other: str, same: bool) -> None:
    assert same_label(one, other) is same


def test_an_answer_counts_only_in_its_tag() -> None:
    assert is_correct("<think>x</think><answer>Surprised</answer>", "surprise")
    assert not is_correct("surprise", "surprise")
    assert not is_correct("<answer>fear</answer> surprise", "surprise")
