"""UniFER's protocol: parses a label from a response exactly like the published evaluation scripts.

The rules are those of `eval_*/code/eval_unifer.py` and `eval_total/code/eval_unifer.py` of github.com/zfkarl/UniFER,
commit 08c2ed6. Some are surprising, but published metrics depend on them:

- A label counts wherever its letters occur: "unhappy" is happy, and "made" contains mad, which is anger.
- The first candidate label that is found wins, whatever else the response says.
- The answer tag must be on one line. SFEW's own script allows several, but its tag is case-sensitive. The script for
  all four data sets together treats SFEW like the others.
- A response without a label is "unknown", a class of its own in the macro averages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fer.answers import UNKNOWN


@dataclass(frozen=True)
class Rules:
    """The parsing rules of one data set's script."""

    tag: re.Pattern[str]
    synonyms: Mapping[str, Sequence[str]]
    """Searched in this order if no candidate label is found."""


_ONE_LINE = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.IGNORECASE)
_MANY_LINES = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

_CONTEMPT = ("scorn", "disdain")
_DISGUST_FEAR = {"disgust": ("revulsion", "repulsion"), "fear": ("terror", "fright")}
_NEUTRAL_SURPRISE = {"neutral": ("normal", "calm", "blank"), "surprise": ("shock", "astonishment")}
_NOUNS = {**_DISGUST_FEAR, "happiness": ("joy", "happy"), "sadness": ("sad",), **_NEUTRAL_SURPRISE}
_ADJECTIVES = {**_DISGUST_FEAR, "happy": ("joy", "happiness"), "sad": ("sorrow", "unhappy"), **_NEUTRAL_SURPRISE}

RULES: Mapping[str, Rules] = {
    "rafdb": Rules(_ONE_LINE, {"anger": ("angry",), **_NOUNS}),
    "ferplus": Rules(_ONE_LINE, {"angry": ("anger",), "contempt": _CONTEMPT, **_ADJECTIVES}),
    "affectnet": Rules(_ONE_LINE, {"anger": ("angry", "mad"), "contempt": _CONTEMPT, **_NOUNS}),
    "sfew": Rules(_MANY_LINES, {"angry": ("anger", "mad"), **_ADJECTIVES}),
}
POOLED_RULES: Mapping[str, Rules] = {**RULES, "sfew": Rules(_ONE_LINE, RULES["sfew"].synonyms)}
"""Those of the script for all data sets together."""


def parse_label_unifer(response: str, labels: Sequence[str], rules: Rules) -> str:
    """The label that the published script parses from ``response``, or "unknown".

    It searches the tagged answer for the labels in their order, then the whole response, then the response for
    synonyms. (The scripts search the response for whole words before substrings, label by label; the substring search
    finds whatever the other does, so it alone decides.)
    """
    tagged = rules.tag.search(response)
    if tagged and (found := _first([(label.lower(), label) for label in labels], tagged.group(1).lower())):
        return found
    synonyms = [(word, label) for label, words in rules.synonyms.items() for word in words]
    return _first([*((label, label) for label in labels), *synonyms], response.lower()) or UNKNOWN


def _first(words: Iterable[tuple[str, str]], text: str) -> str | None:
    """The label of the first word that occurs in ``text``."""
    return next((label for word, label in words if word in text), None)
