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
"""The label of a response that names no candidate label or several."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
RESPONSE_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """The text between the first ``<answer>`` and ``</answer>``, stripped; None without these tags."""
    found = _ANSWER.search(text)
    return found.group(1).strip() if found else None


def well_formed(text: str) -> bool:
    """Whether the whole text has UniFER's format ``<think>...</think><answer>...</answer>`` (arXiv 2511.00389)."""
    return RESPONSE_FORMAT.fullmatch(text.strip()) is not None


def same_label(one: str, other: str) -> bool:
    """Whether two labels are equal up to case and whitespace, or names of the same emotion."""
    one, other = " ".join(one.lower().split()), " ".join(other.lower().split())
    return one == other or (emotion(one) is not None and emotion(one) == emotion(other))


def is_correct(text: str, label: str) -> bool:
    """Whether the tagged answer of ``text`` names ``label``."""
    answer = extract_answer(text)
    return answer is not None and same_label(answer, label)


# Inflections of each label. Synonyms such as "joy" are different words and don't count.
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
    """The one candidate label that the answer part names; "unknown" if there are none or several."""
    named = named_labels(answer_part(response).lower(), labels)
    return named[0] if len(named) == 1 else UNKNOWN


def named_labels(answer: str, labels: Sequence[str]) -> list[str]:
    """The candidate labels that occur as whole words in a lower-case answer, in the order of ``labels``."""
    return [label for label in labels if any(_whole_word(word, answer) for word in _words(label))]


def answer_part(response: str) -> str:
    """The content of all answer tags; else the answer field of a JSON object; else everything but the reasoning."""
    tagged = _ALL_TAGGED.findall(response)
    if tagged:
        return "\n".join(tagged)
    rest = _REASONING.sub("", response)
    fields = _json_object(rest)
    return rest if fields is None else "\n".join(str(fields[name]) for name in _FIELDS if name in fields)


def _json_object(text: str) -> dict[str, object] | None:
    """The text as a JSON object, bare or in a code fence, with lower-case keys; None if it is not one."""
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
