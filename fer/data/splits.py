"""Cutting validation and test parts: stratified by label, deterministic by seed, and never through a group."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from fer.data.schema import SPLITS, FaceRow


def assign_splits(rows: Sequence[FaceRow], *, val_split: float, test_split: float, seed: int) -> list[str]:
    """The split of each row, whose labels are resolved: a pure function of the seed and of the set of rows.

    Splits that the data set publishes are kept. Rows that it leaves open are always cut; its training rows are cut
    only for a part that it does not have at all. ``test_split`` is a share of the rows to cut, ``val_split`` of what
    the test leaves. Rows without a group are cut to the rounded share of each label; groups come as near to it as they
    can whole. A share above 0 yields at least one row, if there are two units (groups, or single rows) to cut.
    """
    published = {row.split for row in rows}
    splits = [row.split for row in rows]
    units = _units(rows)
    for part, share in (("test", test_split), ("val", val_split)):
        pool = {
            key: [i for i in members if splits[i] is None or (splits[i] == "train" and part not in published)]
            for key, members in units.items()
        }
        whole = {key: members for key, members in pool.items() if len(members) == len(units[key])}
        for i in _cut(rows, whole, share, f"{seed}/{part}"):
            splits[i] = part
    for members in units.values():
        taken = {splits[i] for i in members if splits[i]}
        rest = next((split for split in SPLITS if split in taken), "train")
        for i in members:
            splits[i] = splits[i] or rest
    return [split or "train" for split in splits]


def _units(rows: Sequence[FaceRow]) -> Mapping[str, list[int]]:
    """What is cut as a whole: each group, and each row without one, by a key that does not depend on the order."""
    units: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        units[f"row {row.path}" if row.group is None else f"group {row.group}"].append(i)
    return units


def _cut(rows: Sequence[FaceRow], units: Mapping[str, list[int]], share: float, seed: str) -> list[int]:
    """Rows of the units that together come nearest to ``share`` of each label, chosen greedily in a seeded order.

    Groups go first, so that single rows fill in what they leave.
    """
    if not share or len(units) < 2:
        return []
    labels = {key: Counter(rows[i].label for i in members) for key, members in units.items() if members}
    totals = Counter(rows[i].label for members in units.values() for i in members)
    missing = {label: share * total for label, total in totals.items()}
    order = sorted(labels, key=lambda key: (key.startswith("row "), hashlib.sha256(f"{seed}/{key}".encode()).digest()))
    chosen = []
    for key in order:
        if _gain(missing, labels[key]) > 0:
            chosen.append(key)
            for label, count in labels[key].items():
                missing[label] -= count
    chosen = chosen or [max(order, key=lambda key: _gain(missing, labels[key]))]
    return [i for key in chosen for i in units[key]]


def _gain(missing: Mapping[str | int, float], unit: Counter[str | int]) -> float:
    """How much nearer to the wanted counts the unit brings the cut: positive if it should be taken."""
    return sum(abs(missing[label]) - abs(missing[label] - count) for label, count in unit.items())
