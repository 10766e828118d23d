"""Label spaces of the expression data sets, and mappings between them.

A label space is an ordered list of labels, spelt as in its data set. Labels are mapped from one space to another by the
emotion they stand for, one of eight. Labels and their order follow the published files: RAF-DB (Li et al., CVPR 2017),
FER+ (Barsoum et al., ICMI 2016), AffectNet (Mollahosseini et al., 2017), SFEW 2.0 (Dhall et al., 2015), FER2013
(Goodfellow et al., 2013); the spelling is that of the FERBench question files (arXiv 2511.00389).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fer.errors import BadRow, UserError

EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

# Other names of each emotion in folder names, CSV files and model responses.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "anger": ("angry", "an", "mad"),
    "contempt": ("contemptuous", "co"),
    "disgust": ("disgusted", "di"),
    "fear": ("afraid", "fearful", "scared", "fe"),
    "happiness": ("happy", "joy", "joyful", "ha"),
    "neutral": ("neutrality", "ne", "natural"),
    "sadness": ("sad", "sa"),
    "surprise": ("surprised", "su"),
}
_EMOTION_OF = {word: emotion for emotion, words in SYNONYMS.items() for word in (emotion, *words)}


def emotion(name: str) -> str | None:
    """The emotion that a name stands for ("Happy" is "happiness"); None if it is none of the eight."""
    return _EMOTION_OF.get(name.strip().lower())


@dataclass(frozen=True)
class LabelSpace:
    """The ordered labels of a data set. A label's position is its class index in models and metrics."""

    name: str
    labels: tuple[str, ...]
    codes: Mapping[int, str] = field(default_factory=dict)
    """Label of each numeric code in the data set's files, if it uses codes."""

    def index(self, label: str) -> int:
        """Class index of a label."""
        return self.labels.index(label)

    def resolve(self, raw: str | int) -> str:
        """The label of a value in a file: a code, a label or a synonym. Raises BadRow for an unknown value."""
        if isinstance(raw, int) or (raw.strip().isdigit() and self.codes):
            if int(raw) not in self.codes:
                raise BadRow(f"unknown label code {raw} (label space {self.name})")
            return self.codes[int(raw)]
        name = raw.strip()
        for label in self.labels:
            if label.lower() == name.lower():
                return label
        for label in self.labels:
            if emotion(label) and emotion(label) == emotion(name):
                return label
        raise BadRow(f"unknown label {raw!r} (label space {self.name}: {', '.join(self.labels)})")


def _coded(name: str, labels: Iterable[str], first_code: int = 0) -> LabelSpace:
    labels = tuple(labels)
    return LabelSpace(name, labels, dict(enumerate(labels, first_code)))


SPACES: Mapping[str, LabelSpace] = {
    space.name: space
    for space in (
        _coded("rafdb", ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), first_code=1),
        _coded(
            "rafdb-compound",
            (
                "happily surprised",
                "happily disgusted",
                "sadly fearful",
                "sadly angry",
                "sadly surprised",
                "sadly disgusted",
                "fearfully angry",
                "fearfully surprised",
                "angrily surprised",
                "angrily disgusted",
                "disgustedly surprised",
            ),
            first_code=1,
        ),
        LabelSpace("ferplus", ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")),
        _coded(
            "affectnet",
            ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
        ),
        LabelSpace("sfew", ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")),
        LabelSpace(
            "fer2013",
            ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
            {0: "angry", 1: "disgust", 2: "fear", 3: "happy", 4: "sad", 5: "surprise", 6: "neutral"},
        ),
        LabelSpace("six-class", ("anger", "disgust", "fear", "happy", "sad", "surprised")),
        LabelSpace("basic", ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")),
    )
}


_ADVERBS: Mapping[str, str] = {
    "happily": "happiness",
    "sadly": "sadness",
    "fearfully": "fear",
    "angrily": "anger",
    "disgustedly": "disgust",
}


def compound_parts(label: str) -> tuple[str, str]:
    """The two emotions of a compound label: ("happiness", "surprise") for "happily surprised"."""
    adverb, adjective = label.split()
    found = _ADVERBS[adverb], emotion(adjective)
    assert found[1] is not None, label
    return found[0], found[1]


_COMPOUND_OF = {frozenset(compound_parts(label)): label for label in SPACES["rafdb-compound"].labels}


def compound_label(first: str, second: str) -> str | None:
    """RAF-DB's compound label of two labels in either order; None if there is none, as for fear and disgust.

    Synonyms are accepted: "sad" and "angry" make "sadly angry".
    """
    return _COMPOUND_OF.get(frozenset(filter(None, (emotion(first), emotion(second)))))


def likely_compound(scores: Mapping[str, float]) -> str | None:
    """RAF-DB's compound label of the two labels with the highest scores; None if there is none."""
    first, second = sorted(scores, key=scores.__getitem__, reverse=True)[:2]
    return compound_label(first, second)


def get_space(name: str) -> LabelSpace:
    """A label space by name. Raises UserError for an unknown name."""
    if name not in SPACES:
        raise UserError(f"no label space {name!r}; known: {', '.join(SPACES)}")
    return SPACES[name]


def infer_space(names: Iterable[str]) -> LabelSpace:
    """The known label space with exactly these labels; else a custom one, sorted by name.

    Names that differ only by case are one label, in the spelling that comes last: "happy", not "Happy".
    """
    labels = tuple(sorted({name.lower(): name for name in sorted(names)}.values()))
    for space in reversed(list(SPACES.values())):  # the most general first: basic before rafdb, fer2013 before sfew
        if sorted(space.labels) == list(labels):
            return space
    return LabelSpace("custom", labels)


def map_labels(source: LabelSpace, target: LabelSpace) -> dict[str, str | None]:
    """For each label of ``source``, the label of ``target`` with the same name or emotion; None if there is none."""
    mapped: dict[str, str | None] = {}
    for label in source.labels:
        try:
            mapped[label] = target.resolve(label)
        except BadRow:
            mapped[label] = None
    return mapped
