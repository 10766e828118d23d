"""Splits: stratified by label, deterministic by seed, and never through a group.

scikit-learn's StratifiedGroupKFold cuts only fractions 1/k: a split of 0.3 gets 0.33 of the rows. With it, one row more
moves 5 to 20% of 30,000 others to another split, and here none.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from fer.data.schema import SPLITS, FaceRow


def assign_splits(rows: Sequence[FaceRow], *, val_split: float, test_split: float, seed: int) -> list[str]:
    """The split of each row (with resolved labels): a pure function of the seed and of the set of rows.

    Published splits are kept. Rows without one are always divided; published training rows only if the data set lacks
    that split. ``test_split`` is a fraction of the rows to divide, ``val_split`` of those that remain. Rows without a
    group are divided to the rounded fraction of each label; whole groups come as near to it as they can. A fraction
    above 0 yields at least one row, if there are at least two units (groups or ungrouped rows) to divide.
    """
    published = {row.split for row in rows}
    splits = [row.split for row in rows]
    units = _units(rows)
    for name, share in (("test", test_split), ("val", val_split)):
        pool = {
            key: [i for i in members if splits[i] is None or (splits[i] == "train" and name not in published)]
            for key, members in units.items()
        }
        whole = {key: members for key, members in pool.items() if len(members) == len(units[key])}
        for i in _choose_rows(rows, whole, share, f"{seed}/{name}"):
            splits[i] = name
    for members in units.values():
        taken = {splits[i] for i in members if splits[i]}
        rest = next((split for split in SPLITS if split in taken), "train")
        for i in members:
            splits[i] = splits[i] or rest
    return [split or "train" for split in splits]


def _units(rows: Sequence[FaceRow]) -> Mapping[str, list[int]]:
    """Rows that stay together: each group, and each ungrouped row, under a key that does not depend on the order."""
    units: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        units[f"row {row.path}" if row.group is None else f"group {row.group}"].append(i)
    return units


def _choose_rows(rows: Sequence[FaceRow], units: Mapping[str, list[int]], share: float, seed: str) -> list[int]:
    """Rows of the units that together come nearest to ``share`` of each label, chosen greedily in a seeded order.

    Groups are chosen first; single rows fill the remainder.
    """
    if not share or len(units) < 2:
        return []
    labels = {key: Counter(rows[i].label for i in members) for key, members in units.items() if members}
    totals = Counter(rows[i].label for members in units.values() for i in members)
    missing = {label: share * total for label, total in totals.items()}
    order = sorted(labels, key=lambda key: (key.startswith("row "), hashlib.sha256(f"{seed}/{key}".encode()).digest()))
    chosen = []
    for key in order:
        if _improvement(missing, labels[key]) > 0:
            chosen.append(key)
            for label, count in labels[key].items():
                missing[label] -= count
    chosen = chosen or [max(order, key=lambda key: _improvement(missing, labels[key]))]
    return [i for key in chosen for i in units[key]]


def _improvement(missing: Mapping[str | int, float], unit: Counter[str | int]) -> float:
    """By how much the unit reduces the distance to the target counts: positive if it should be chosen."""
    return sum(abs(missing[label]) - abs(missing[label] - count) for label, count in unit.items())
