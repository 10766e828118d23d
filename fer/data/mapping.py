"""Labels of rows: raw values to labels, and labels and votes from one label space to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from fer.data.schema import FaceRow
from fer.errors import BadRow
from fer.labels import LabelSpace, map_labels


def map_rows(rows: Iterable[FaceRow], source: LabelSpace, target: LabelSpace) -> Iterator[FaceRow]:
    """The rows with labels and votes in ``target``, in the same order; no row is dropped.

    A label that is unknown in ``source`` becomes the row's ``error``; one without a counterpart in ``target`` is the
    reason why the row is ``excluded``.
    """
    mapped = map_labels(source, target)
    for row in rows:
        yield row if row.error or row.excluded else _map_row(row, source, target, mapped)


def _map_row(row: FaceRow, source: LabelSpace, target: LabelSpace, mapped: Mapping[str, str | None]) -> FaceRow:
    try:
        label = source.resolve(row.label)
    except BadRow as error:
        return replace(row, error=str(error))
    counterpart = mapped[label]
    if counterpart is None:
        return replace(row, excluded=f"label {label} has no counterpart in {target.name}")
    votes = map_votes(row.votes, source, target, mapped) if row.votes else None
    return replace(row, label=counterpart, votes=votes)


def map_votes(
    votes: tuple[float, ...], source: LabelSpace, target: LabelSpace, mapped: Mapping[str, str | None]
) -> tuple[float, ...]:
    """A distribution over ``source`` mapped to ``target``: labels without a counterpart are dropped, the sum is 1."""
    share = dict.fromkeys(target.labels, 0.0)
    for label, vote in zip(source.labels, votes, strict=True):
        counterpart = mapped[label]
        if counterpart is not None:
            share[counterpart] += vote
    total = sum(share.values())
    return tuple(value / total for value in share.values())
