"""Reading a model's answer: the text between its tags, its form, and whether two labels mean the same."""

from __future__ import annotations

import re

from fer.labels import emotion

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
FORM = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def tagged_answer(text: str) -> str | None:
    """What stands between the first ``<answer>`` and ``</answer>``, stripped; None without them."""
    found = _ANSWER.search(text)
    return found.group(1).strip() if found else None


def well_formed(text: str) -> bool:
    """Whether the whole text is ``<think>...</think><answer>...</answer>``, UniFER's form (arXiv 2511.00389)."""
    return FORM.fullmatch(text.strip()) is not None


def same_label(one: str, other: str) -> bool:
    """Whether two labels mean the same: equal but for case and spaces, or names of the same emotion."""
    one, other = " ".join(one.lower().split()), " ".join(other.lower().split())
    return one == other or (emotion(one) is not None and emotion(one) == emotion(other))


def answers_rightly(text: str, label: str) -> bool:
    """Whether the tagged answer of ``text`` names ``label``."""
    answer = tagged_answer(text)
    return answer is not None and same_label(answer, label)
