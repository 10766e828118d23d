"""Reading a model's response: its format, the answer in its tags, and the candidate label that it names.

There are two readings. `extract_answer` takes the first answer tag literally (rewards, SFT validation). `parse_label`
is the strict protocol of FERBench: it reads the answer part only, never the reasoning before it; only whole words
count, so "unhappy" is not "happy"; an answer that names two expressions names none. Whatever it can't read is
"unknown", and counts as wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from fer.labels import EMOTIONS, emotion

UNKNOWN = "unknown"
"""The label of a response that names no candidate label, or several."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
RESPONSE_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """What stands between the first ``<answer>`` and ``</answer>``, stripped; None without them."""
    found = _ANSWER.search(text)
    return found.group(1).strip() if found else None


def well_formed(text: str) -> bool:
    """Whether the whole text is ``<think>...</think><answer>...</answer>``, UniFER's form (arXiv 2511.00389)."""
    return RESPONSE_FORMAT.fullmatch(text.strip()) is not None


def same_label(one: str, other: str) -> bool:
    """Whether two labels mean the same: equal but for case and spaces, or names of the same emotion."""
    one, other = " ".join(one.lower().split()), " ".join(other.lower().split())
    return one == other or (emotion(one) is not None and emotion(one) == emotion(other))


def is_correct(text: str, label: str) -> bool:
    """Whether the tagged answer of ``text`` names ``label``."""
    answer = extract_answer(text)
    return answer is not None and same_label(answer, label)


# Other forms of a label's own word. Synonyms such as "joy" are other words, and no candidate label.
WORD_FORMS: Mapping[str, tuple[str, ...]] = {
    "anger": ("anger", "angry"),
    "contempt": ("contempt", "contemptuous"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful"),
    "happiness": ("happiness", "happy"),
    "neutral": ("neutral",),
    "sadness": ("sadness", "sad"),
    "surprise": ("surprise", "surprised"),
}
assert tuple(WORD_FORMS) == EMOTIONS

_ALL_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.IGNORECASE | re.DOTALL)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*(.*?)\s*```\s*\Z", re.IGNORECASE | re.DOTALL)
_FIELDS = ("answer", "label", "expression", "emotion")


def parse_label(response: str, labels: Sequence[str]) -> str:
    """The one candidate label that the response's answer names, or "unknown"."""
    named = names_of(answer_part(response).lower(), labels)
    return named[0] if len(named) == 1 else UNKNOWN


def names_of(answer: str, labels: Sequence[str]) -> list[str]:
    """The candidate labels that a lower-case answer names as whole words, in their order."""
    return [label for label in labels if any(_whole_word(word, answer) for word in _words(label))]


def answer_part(response: str) -> str:
    """What stands in the answer tags, all of them; else a JSON object's answer; else all but the reasoning."""
    tagged = _ALL_TAGGED.findall(response)
    if tagged:
        return "\n".join(tagged)
    rest = _REASONING.sub("", response)
    fields = _json_object(rest)
    return rest if fields is None else "\n".join(str(fields[name]) for name in _FIELDS if name in fields)


def _json_object(text: str) -> dict[str, object] | None:
    """The JSON object that the text is, by itself or in a code fence; None where it is something else."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    return {name.lower(): field for name, field in value.items()} if isinstance(value, dict) else None


def _words(label: str) -> tuple[str, ...]:
    return WORD_FORMS.get(emotion(label) or "", (label.lower(),))


def _whole_word(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
