"""FERBench's four data sets and RAF-DB's compound part, identified by their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fer.errors import UserError
from fer.labels import SPACES

FERBENCH_DATASETS = ("rafdb", "ferplus", "affectnet", "sfew")
COMPOUND = "rafdb-compound"
TITLES: Mapping[str, str] = {
    "rafdb": "RAF-DB",
    "ferplus": "FERPlus",
    "affectnet": "AffectNet",
    "sfew": "SFEW 2.0",
    COMPOUND: "RAF-DB compound",
}
_BY_LABELS = {frozenset(SPACES[name].labels): name for name in FERBENCH_DATASETS}

# Two of the four data sets say angry, happy and sad; pooled metrics use the other two's names.
COMMON_LABELS: Mapping[str, str] = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def identify_dataset(candidate_labels: Iterable[str], true_labels: Iterable[str]) -> str | None:
    """The data set with these labels; None if there is none.

    Compound questions offer the basic labels, so they are identified by their true labels.
    """
    if set(true_labels) <= set(SPACES[COMPOUND].labels):
        return COMPOUND
    return _BY_LABELS.get(frozenset(candidate_labels))


def check_true_labels(location: str, dataset: str | None, true_labels: Iterable[str]) -> None:
    """Raise UserError that names the first row of a file whose true label is none of the data set's."""
    if dataset is None:
        return
    labels = dataset_labels(dataset)
    for number, label in enumerate(true_labels, 1):
        if label not in labels:
            raise UserError(f"{location}, row {number}: true_label {label!r} is none of {', '.join(labels)}")


def dataset_labels(dataset: str) -> tuple[str, ...]:
    """A data set's labels in their published order."""
    return SPACES[dataset].labels


def common_label(label: str) -> str:
    """A label's name in metrics over several data sets."""
    return COMMON_LABELS.get(label, label)


POOLED_LABELS = tuple(sorted({common_label(label) for name in FERBENCH_DATASETS for label in dataset_labels(name)}))
