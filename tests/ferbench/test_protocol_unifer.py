"""UniFER's protocol against expected labels, derived from the published rules by hand or by construction."""

from __future__ import annotations

import pytest

from fer.answers import UNKNOWN
from fer.ferbench.datasets import FERBENCH_DATASETS, dataset_labels
from fer.ferbench.protocol_unifer import POOLED_RULES, RULES, parse_label_unifer

# The order of the candidate labels decides, so it is written out.
ORDER = {
    "rafdb": "surprise fear disgust happiness sadness anger neutral",
    "ferplus": "angry contempt disgust fear happy neutral sad surprise",
    "affectnet": "neutral happiness sadness surprise fear disgust anger contempt",
    "sfew": "angry disgust fear happy neutral sad surprise",
}
LONG = "The light falls from the left and the head is turned to one side. " * 400

# A response, and its labels on RAF-DB, FERPlus, AffectNet and SFEW 2.0.
BY_HAND = [
    # the tag first, searched for substrings in the order of the candidates
    ("<think>Wide eyes, a hint of fear.</think><answer>surprise</answer>", "surprise surprise surprise surprise"),
    ("<answer>happiness</answer>", "happiness happy happiness happy"),
    ("<answer>happy</answer>", "happiness happy happiness happy"),
    ("<answer>sad</answer>", "sadness sad sadness sad"),
    ("<answer>angry</answer>", "anger angry anger angry"),
    ("<answer>Anger</answer>", "anger angry anger angry"),
    ("<answer>SURPRISED</answer>", "surprise surprise surprise surprise"),
    ("<answer>fearful</answer>", "fear fear fear fear"),
    ("<answer>fear and surprise</answer>", "surprise fear surprise fear"),
    ("<answer>surprise or fear</answer>", "surprise fear surprise fear"),
    ("<answer>neutral, disgust</answer>", "disgust disgust neutral disgust"),
    ("<answer>not disgust but fear</answer>", "fear disgust fear disgust"),
    ("<Answer>neutral</aNSWER>", "neutral neutral neutral neutral"),
    ("<answer>fear</answer><answer>neutral</answer>", "fear fear fear fear"),
    ("<answer>unsure</answer><answer>neutral</answer>", "neutral neutral neutral neutral"),
    ("<answer><answer>disgust</answer></answer>", "disgust disgust disgust disgust"),
    ("<answer></answer>", "unknown unknown unknown unknown"),
    ("<answer>   </answer> neutral", "neutral neutral neutral neutral"),
    # only SFEW accepts a tag of several lines; the others then search the whole response
    ("<think>Not fear.</think><answer>\nneutral\n</answer>", "neutral neutral neutral neutral"),
    ("<think>Not fear.</think><answer>It is\nneutral</answer>", "fear fear neutral neutral"),
    ("<think>Not disgust.</think><answer>a\nb surprise</answer>", "surprise disgust surprise surprise"),
    # SFEW's tag is case-sensitive, the others' is not
    ("<think>Not fear.</think><ANSWER>neutral</ANSWER>", "neutral neutral neutral fear"),
    ("<think>disgust?</think><Answer>surprise</Answer>", "surprise surprise surprise disgust"),
    # a tag without a label: the whole response decides
    ("<think>fear</think><answer>unclear</answer>", "fear fear fear fear"),
    ("<think>A neutral face with a little fear.</think><answer>E</answer>", "fear fear neutral fear"),
    # no tag
    ("Neutral", "neutral neutral neutral neutral"),
    ("surprise", "surprise surprise surprise surprise"),
    ("I would say disgust, not fear.", "fear disgust fear disgust"),
    ("Fear, or rather sad", "fear fear fear fear"),
    ("<answer>neutral", "neutral neutral neutral neutral"),
    ("neutral</answer>", "neutral neutral neutral neutral"),
    ('{"emotion": "disgust", "confidence": 0.9}', "disgust disgust disgust disgust"),
    ("**Answer:** Surprise", "surprise surprise surprise surprise"),
    ("The person looks fearless", "fear fear fear fear"),
    ("an unsurprised look", "surprise surprise surprise surprise"),
    ("FEAR\nFEAR\nNEUTRAL", "fear fear neutral fear"),
    # substrings
    ("unhappy", "happiness happy happiness happy"),
    ("<answer>unhappy</answer>", "happiness happy happiness happy"),
    ("He is made of stone", "unknown unknown anger angry"),
    ("a nomad with a hat", "unknown unknown anger angry"),
    ("He sat in a saddle", "sadness sad sadness sad"),
    ("unhappiness", "happiness happy happiness happy"),
    ("abnormal", "neutral neutral neutral neutral"),
    ("calmly", "neutral neutral neutral neutral"),
    ("a blanket", "neutral neutral neutral neutral"),
    ("enjoying the day", "happiness happy happiness happy"),
    ("shockingly bright", "surprise surprise surprise surprise"),
    ("terrorised", "fear fear fear fear"),
    # synonyms, in the order of each table
    ("joy", "happiness happy happiness happy"),
    ("full of sorrow", "unknown sad unknown sad"),
    ("mad", "unknown unknown anger angry"),
    ("scorn", "unknown contempt contempt unknown"),
    ("disdainful", "unknown contempt contempt unknown"),
    ("revulsion", "disgust disgust disgust disgust"),
    ("repulsion", "disgust disgust disgust disgust"),
    ("fright", "fear fear fear fear"),
    ("astonishment", "surprise surprise surprise surprise"),
    ("normal", "neutral neutral neutral neutral"),
    ("joy and terror", "fear fear fear fear"),
    ("shock and joy", "happiness happy happiness happy"),
    ("calm sorrow", "neutral sad neutral sad"),
    ("revulsion and scorn", "disgust contempt contempt disgust"),
    ("an angry and joyful face", "anger angry anger angry"),
    ("sad but happy", "happiness happy happiness happy"),
    ("<answer>joy</answer>", "happiness happy happiness happy"),
    # candidates come before synonyms, wherever they are
    ("joy, perhaps fear", "fear fear fear fear"),
    ("a shock, then contempt", "surprise contempt contempt surprise"),
    ("contempt", "unknown contempt contempt unknown"),
    ("<answer>contempt</answer>", "unknown contempt contempt unknown"),
    # no label
    ("", "unknown unknown unknown unknown"),
    ("   \n\t ", "unknown unknown unknown unknown"),
    ("I can't tell.", "unknown unknown unknown unknown"),
    ("unknown", "unknown unknown unknown unknown"),
    ("<think>Hard to say</think>", "unknown unknown unknown unknown"),
    (LONG, "unknown unknown unknown unknown"),
    (LONG + "<answer>neutral</answer>", "neutral neutral neutral neutral"),
    (LONG + "surprise" + LONG, "surprise surprise surprise surprise"),
    ("<think>" + LONG + "fear</think><answer>neutral</answer>", "neutral neutral neutral neutral"),
    # other languages and scripts
    ("高兴", "unknown unknown unknown unknown"),
    ("<answer>惊讶</answer>", "unknown unknown unknown unknown"),
    ("他看起来很 happy", "happiness happy happiness happy"),
    ("<think>眉毛上扬</think><answer>surprise 惊讶</answer>", "surprise surprise surprise surprise"),
    ("Überraschung", "unknown unknown unknown unknown"),
    ("neutralité", "neutral neutral neutral neutral"),
    ("Wut (anger)", "anger angry anger angry"),
    ("ѕurprise", "unknown unknown unknown unknown"),  # its first letter is Cyrillic
    ("😀", "unknown unknown unknown unknown"),
    ("😀 joy", "happiness happy happiness happy"),
]


def test_the_order_of_the_candidates_is_the_published_one() -> None:
    assert {name: tuple(text.split()) for name, text in ORDER.items()} == {
        name: dataset_labels(name) for name in FERBENCH_DATASETS
    }


@pytest.mark.parametrize("number", range(len(BY_HAND)))
def test_responses_labelled_by_hand(number: int) -> None:
    response, expected = BY_HAND[number]
    found = [parse_label_unifer(response, ORDER[name].split(), RULES[name]) for name in ORDER]
    assert found == expected.split()


def constructed(labels: list[str]) -> list[tuple[str, str]]:
    """Responses with the label that follows from their construction."""
    cases = []
    for position, label in enumerate(labels):
        other = labels[position - 1]
        first = min(label, other, key=labels.index)
        cases += [
            (f"<answer>{label}</answer>", label),
            (f"<answer>  {label.upper()} </answer>", label),
            (f"<answer>{label.title()}.</answer>", label),
            (f"<think>Perhaps {other}.</think>\n<answer>{label}</answer>", label),
            (f"<think>Perhaps {other}.</think><answer>un{label}</answer>", label),
            (f"<answer>{label}</answer> and then {other}", label),
            (f"<answer>{label} {other}</answer>", first),
            (f"<answer>{other} {label}</answer>", first),
            (f"<answer>?</answer> {label} {other}", first),
            (label, label),
            (f"It is {label.upper()}!", label),
            (f"xx{label}yy", label),
            (f"{label} or {other}", first),
            (LONG + label, label),
            (f"<answer>{label}", label),
        ]
    return cases


@pytest.mark.parametrize("name", FERBENCH_DATASETS)
def test_constructed_responses(name: str) -> None:
    cases = constructed(ORDER[name].split())
    wrong = [
        (response, label)
        for response, label in cases
        if parse_label_unifer(response, ORDER[name].split(), RULES[name]) != label
    ]
    assert not wrong
    assert len(BY_HAND) * 4 + sum(len(constructed(ORDER[each].split())) for each in FERBENCH_DATASETS) >= 300


@pytest.mark.parametrize("name", FERBENCH_DATASETS)
def test_every_synonym_maps_to_its_label(name: str) -> None:
    for label, words in RULES[name].synonyms.items():
        assert label in ORDER[name].split()
        for word in words:
            response = parse_label_unifer(f"a {word} look", ORDER[name].split(), RULES[name])
            # "unhappy" is a synonym of sad that is never reached, because it contains happy.
            assert response == ("happy" if word == "unhappy" else label)


def test_the_pooled_script_treats_sfew_like_the_others() -> None:
    response = "<think>Not fear.</think><ANSWER>neutral</ANSWER>"
    labels = ORDER["sfew"].split()
    assert parse_label_unifer(response, labels, RULES["sfew"]) == "fear"
    assert parse_label_unifer(response, labels, POOLED_RULES["sfew"]) == "neutral"
    assert all(POOLED_RULES[name] is RULES[name] for name in FERBENCH_DATASETS if name != "sfew")
    assert parse_label_unifer("", labels, POOLED_RULES["sfew"]) == UNKNOWN
