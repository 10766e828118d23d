import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.answers import extract_answer, is_correct, same_label, well_formed

WELL_FORMED = "<think>The brows are raised.</think>\n<answer>surprise</answer>"


def test_the_first_tagged_answer_is_extracted() -> None:
    assert extract_answer(WELL_FORMED) == "surprise"
    assert extract_answer("<answer> a\nb </answer><answer>c</answer>") == "a\nb"
    assert extract_answer("surprise") is None
    assert extract_answer("<answer>surprise") is None


@given(st.text(), st.text().filter(lambda text: "<" not in text))
def test_any_answer_is_extracted_after_any_reasoning(reasoning: str, answer: str) -> None:
    if "<answer>" not in reasoning:
        assert extract_answer(f"<think>{reasoning}</think><answer>{answer}</answer>") == answer.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WELL_FORMED, True),
        (f"  {WELL_FORMED}\n", True),
        ("<answer>surprise</answer>", False),
        ("<think>a</think>", False),
        (f"{WELL_FORMED} I am sure.", False),
        ("<think>a</think> so <answer>b</answer>", False),
    ],
)
def test_response_format(text: str, expected: bool) -> None:
    assert well_formed(text) is expected


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


def test_only_a_tagged_answer_is_correct() -> None:
    assert is_correct("<think>x</think><answer>Surprised</answer>", "surprise")
    assert not is_correct("surprise", "surprise")
    assert not is_correct("<answer>fear</answer> surprise", "surprise")
