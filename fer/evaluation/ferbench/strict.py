"""The strict protocol: what a response answers, read as a careful person would, with no benefit of the doubt.

Only the answer part is read, never the reasoning before it. Only whole words count: "unhappy" is not "happy". An answer
that names two expressions names none. Whatever can't be read is "unknown", and counts as wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from fer.evaluation.ferbench.unifer import UNKNOWN
from fer.labels import EMOTIONS, emotion

# Other forms of a label's own word. Synonyms such as "joy" are other words, and no candidate label.
FORMS: Mapping[str, tuple[str, ...]] = {
    "anger": ("anger", "angry"),
    "contempt": ("contempt", "contemptuous"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful"),
    "happiness": ("happiness", "happy"),
    "neutral": ("neutral",),
    "sadness": ("sadness", "sad"),
    "surprise": ("surprise", "surprised"),
}
assert tuple(FORMS) == EMOTIONS

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.IGNORECASE | re.DOTALL)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*(.*?)\s*```\s*\Z", re.IGNORECASE | re.DOTALL)
_FIELDS = ("answer", "label", "expression", "emotion")


def read_label(response: str, labels: Sequence[str]) -> str:
    """The one candidate label that the response's answer names, or "unknown"."""
    named = names_of(answer_part(response).lower(), labels)
    return named[0] if len(named) == 1 else UNKNOWN


def names_of(answer: str, labels: Sequence[str]) -> list[str]:
    """The candidate labels that a lower-case answer names as whole words, in their order."""
    return [label for label in labels if any(_whole_word(word, answer) for word in _words(label))]


def answer_part(response: str) -> str:
    """What stands in the answer tags, all of them; else a JSON object's answer; else all but the reasoning."""
    tagged = _TAGGED.findall(response)
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
    return FORMS.get(emotion(label) or "", (label.lower(),))


def _whole_word(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
