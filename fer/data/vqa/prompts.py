"""Prompts of UniFER and of Chain-of-Affect's two turns, and template responses in UniFER's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fer.labels import emotion

# The prompt of FERBench and of UniFER's training sets, word for word (arXiv 2511.00389).
FERBENCH = (
    "As an expert in facial expression recognition, which expression is most prominent in this image? Please select "
    "your answer from the following candidate labels: {labels}. Provide your detailed reasoning between the "
    "<think></think> tags, and then give your final answer between the <answer></answer> tags."
)

# Chain-of-Affect has two turns: the strongest expression, then the next strongest of the remaining labels.
FIRST_TURN = (
    "Look at the face in this image. Which one of these basic expressions does it show most strongly: {labels}? "
    "Answer with the label alone."
)
SECOND_TURN = (
    "The strongest expression in this face is {first}. Which of the remaining expressions is the next strongest: "
    "{labels}? Answer with the label alone."
)

# Muscle movements of each expression, after the action units of the Facial Action Coding System that EMFACS (Ekman and
# Friesen, 1983) associates with it. Templates state them for every face with the label, without looking at the image.
CUES: Mapping[str, Sequence[str]] = {
    "anger": (
        "The brows are lowered and drawn together.",
        "The upper eyelids are raised over a hard stare.",
        "The lips are pressed tightly together.",
    ),
    "contempt": (
        "One corner of the mouth is tightened and drawn up.",
        "The two sides of the face are not alike.",
    ),
    "disgust": (
        "The nose is wrinkled.",
        "The upper lip is raised.",
        "The cheeks push the lower eyelids up.",
    ),
    "fear": (
        "The brows are raised and drawn together.",
        "The eyes are wide open, with tense lower eyelids.",
        "The lips are stretched sideways.",
    ),
    "happiness": (
        "The corners of the mouth are drawn up and back.",
        "The cheeks are raised.",
        "Small wrinkles show beside the eyes.",
    ),
    "neutral": (
        "The muscles of the face are at rest.",
        "Brows, eyes and mouth show no clear movement.",
    ),
    "sadness": (
        "The inner ends of the brows are raised.",
        "The corners of the mouth are drawn down.",
        "The upper eyelids droop.",
    ),
    "surprise": (
        "The brows are raised high.",
        "The eyes are opened wide.",
        "The jaw has dropped and the mouth is open.",
    ),
}


def ferbench_prompt(labels: Iterable[str]) -> str:
    """UniFER's prompt with these candidate labels, in their order."""
    return FERBENCH.format(labels=", ".join(labels))


def format_response(reasoning: str, label: str) -> str:
    """A response in UniFER's format."""
    return f"<think>{reasoning}</think><answer>{label}</answer>"


def template_response(label: str, key: int) -> str:
    """A response in UniFER's format whose reasoning depends on the label alone; ``key`` selects one of its variants.

    It teaches the format, and nothing about faces. Labels that name no emotion get a sentence without cues.
    """
    cues = CUES.get(emotion(label) or "", ())
    chosen = [cue for i, cue in enumerate(cues) if key >> i & 1] or list(cues[:1])
    return format_response(" ".join([*chosen, f"Taken together, the face looks most like {label}."]), label)


def first_turn_prompt(labels: Sequence[str]) -> str:
    """The prompt of Chain-of-Affect's first turn."""
    return FIRST_TURN.format(labels=", ".join(labels))


def second_turn_prompt(first: str, labels: Sequence[str]) -> str:
    """The prompt of Chain-of-Affect's second turn, after the response ``first``."""
    return SECOND_TURN.format(first=first, labels=", ".join(label for label in labels if label != first))
