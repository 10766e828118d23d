"""Label spaces: codes, synonyms, and mapping from one to another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.errors import BadRow, UserError
from fer.labels import (
    EMOTIONS,
    SPACES,
    compound_label,
    compound_parts,
    emotion,
    get_space,
    infer_space,
    likely_compound,
    map_labels,
)


def test_published_codes() -> None:
    assert [SPACES["rafdb"].resolve(str(code)) for code in range(1, 8)] == [
        "surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral",
    ]  # fmt: skip
    assert [SPACES["fer2013"].resolve(code) for code in range(7)] == [
        "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral",
    ]  # fmt: skip
    assert SPACES["affectnet"].resolve(7) == "contempt"
    assert SPACES["rafdb-compound"].resolve(8) == "fearfully surprised"


@pytest.mark.parametrize("raw", ["8", "0", "happyish", "", "9"])
def test_unknown_label_is_a_bad_row(raw: str) -> None:
    with pytest.raises(BadRow):
        SPACES["rafdb"].resolve(raw)


@given(st.sampled_from([space for space in SPACES.values() if space.name != "rafdb-compound"]), st.data())
def test_every_space_maps_into_every_other_by_emotion(source, data) -> None:
    target = data.draw(st.sampled_from([space for space in SPACES.values() if space.name != "rafdb-compound"]))
    for label, mapped in map_labels(source, target).items():
        assert emotion(label) in EMOTIONS
        if mapped is None:
            assert emotion(label) not in {emotion(other) for other in target.labels}
        else:
            assert emotion(mapped) == emotion(label)


def test_labels_without_a_counterpart_map_to_none() -> None:
    assert map_labels(SPACES["fer2013"], SPACES["six-class"])["neutral"] is None
    assert map_labels(SPACES["ferplus"], SPACES["fer2013"])["contempt"] is None


def test_a_space_is_inferred_from_its_class_names() -> None:
    assert infer_space(["sad", "angry", "fear", "disgust", "neutral", "surprise", "happy"]).name in ("fer2013", "sfew")
    assert infer_space(["cat", "dog"]).labels == ("cat", "dog")


def test_names_that_differ_by_case_are_one_label() -> None:
    assert infer_space(["Happy", "happy", "Sad", "sad", "Fear"]).labels == ("Fear", "happy", "sad")
    assert infer_space([*SPACES["basic"].labels, "Anger"]) is SPACES["basic"]


def test_an_unknown_space_is_a_user_error() -> None:
    with pytest.raises(UserError, match="known: "):
        get_space("nope")


def test_compound_labels_are_made_of_two_basic_ones_in_either_order() -> None:
    for label in SPACES["rafdb-compound"].labels:
        first, second = compound_parts(label)
        assert compound_label(first, second) == compound_label(second, first) == label
    assert compound_label("Sad", "angry") == "sadly angry"
    assert compound_label("fear", "disgust") is None
    assert compound_label("neutral", "surprise") is None
    assert compound_label("fear", "fear") is None
    assert compound_label("puzzled", "fear") is None


def test_the_likely_compound_combines_the_top_two() -> None:
    assert likely_compound({"happy": 0.2, "surprise": 0.5, "angry": 0.3}) == "angrily surprised"
    assert likely_compound({"neutral": 0.6, "surprise": 0.3, "angry": 0.1}) is None
