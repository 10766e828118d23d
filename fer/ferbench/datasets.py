"""FERBench's four data sets, told apart by their candidate labels, and RAF-DB's compound part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fer.labels import SPACES

FOUR = ("rafdb", "ferplus", "affectnet", "sfew")
COMPOUND = "rafdb-compound"
TITLES: Mapping[str, str] = {
    "rafdb": "RAF-DB",
    "ferplus": "FERPlus",
    "affectnet": "AffectNet",
    "sfew": "SFEW 2.0",
    COMPOUND: "RAF-DB compound",
}
_BY_LABELS = {frozenset(SPACES[name].labels): name for name in FOUR}

# Two of the four say angry, happy and sad; the figure over all of them calls these by the others' names.
COMMON_NAMES: Mapping[str, str] = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def dataset_of(candidate_labels: Iterable[str], true_labels: Iterable[str]) -> str | None:
    """Which data set has these labels; None for any other.

    Compound questions offer the basic labels, and are known by the labels that are true of them.
    """
    if set(true_labels) <= set(SPACES[COMPOUND].labels):
        return COMPOUND
    return _BY_LABELS.get(frozenset(candidate_labels))


def labels_of(dataset: str) -> tuple[str, ...]:
    """A data set's labels in their published order."""
    return SPACES[dataset].labels


def common_name(label: str) -> str:
    """A label's name in figures over several data sets."""
    return COMMON_NAMES.get(label, label)


POOLED_LABELS = tuple(sorted({common_name(label) for name in FOUR for label in labels_of(name)}))
