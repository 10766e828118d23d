"""Splits: stratified by label, deterministic by seed, and never through a group.

scikit-learn's StratifiedGroupKFold cuts only fractions 1/k: a split of 0.3 gets 0.33 of the rows. With it, one row more
moves 5 to 20% of 30,000 others to another split, and here none.
Rows are divided in an SQLite table, which sorts on disk: memory grows neither with rows nor with groups.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import groupby

from fer.data.schema import FaceRow

Label = str | int

COLUMNS = "path TEXT, label, grp TEXT, split TEXT"
"""Columns that a table ``rows`` needs for `divide_rows`: a row's group (or null) and published split (or null)."""


def assign_splits(rows: Iterable[FaceRow], *, val_split: float, test_split: float, seed: int) -> list[str]:
    """The split of each row (with resolved labels), as `divide_rows` assigns it."""
    with closing(sqlite3.connect("")) as db:
        db.execute(f"CREATE TABLE rows ({COLUMNS})")
        values = ((row.path, row.label, row.group, row.split) for row in rows)
        db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", values)
        divide_rows(db, val_split=val_split, test_split=test_split, seed=seed)
        return [split for (split,) in db.execute("SELECT split FROM rows ORDER BY rowid")]


def divide_rows(db: sqlite3.Connection, *, val_split: float, test_split: float, seed: int) -> None:
    """Set the split of each of the ``rows`` of a database: a pure function of the seed and of the set of rows.

    Published splits are kept. Rows without one are always divided; published training rows only if the data set lacks
    that split. ``test_split`` is a fraction of the rows to divide, ``val_split`` of those that remain. Rows without a
    group are divided to the rounded fraction of each label; whole groups come as near to it as they can. A fraction
    above 0 yields at least one row, if there are at least two units (groups or ungrouped rows) to divide.
    """
    db.create_function("hash", 1, lambda text: hashlib.sha256(text.encode()).digest(), deterministic=True)
    published = {split for (split,) in db.execute("SELECT DISTINCT split FROM rows")}
    for name, share in (("test", test_split), ("val", val_split)):
        if share:
            free = "split IS NULL" if name in published else "(split IS NULL OR split = 'train')"
            _divide(db, name, share, free, f"{seed}/{name}/")
    # The rest of a group joins its published rows.
    db.execute("""
        UPDATE rows SET split = CASE known.first WHEN 1 THEN 'val' WHEN 2 THEN 'test' ELSE 'train' END
        FROM (SELECT grp, MIN(CASE split WHEN 'val' THEN 1 WHEN 'test' THEN 2 ELSE 0 END) AS first
              FROM rows WHERE grp IS NOT NULL AND split IS NOT NULL GROUP BY grp) AS known
        WHERE rows.split IS NULL AND rows.grp = known.grp
    """)
    db.execute("UPDATE rows SET split = 'train' WHERE split IS NULL")


def _divide(db: sqlite3.Connection, name: str, share: float, free: str, seed: str) -> None:
    """Move units into the split ``name`` that together come nearest to ``share`` of each label.

    Units are chosen greedily in the order of their hashes: groups first; single rows fill the remainder.
    """
    db.execute("DROP TABLE IF EXISTS temp.pool")
    db.execute("DROP TABLE IF EXISTS temp.chosen")
    db.execute(
        f"""
        CREATE TEMP TABLE pool AS
        SELECT rowid AS id, label, grp, hash(? || COALESCE('group ' || grp, 'row ' || path)) AS hash FROM rows
        WHERE {free} AND (grp IS NULL OR grp NOT IN (SELECT grp FROM rows WHERE grp IS NOT NULL AND NOT {free}))
        """,
        (seed,),
    )
    db.execute("CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY)")
    (units,) = db.execute("SELECT COUNT(DISTINCT grp) + SUM(grp IS NULL) FROM pool").fetchone()
    if (units or 0) < 2:
        return
    totals = dict(db.execute("SELECT label, COUNT(*) FROM pool GROUP BY label"))
    missing = {label: share * total for label, total in totals.items()}
    best = _choose_groups(db, missing)
    singles = "SELECT id FROM pool WHERE grp IS NULL AND label = ? ORDER BY hash LIMIT ?"
    for label, count in missing.items():
        db.execute(f"INSERT INTO chosen {singles}", (label, max(0, math.ceil(count - 0.5))))
    if db.execute("SELECT COUNT(*) FROM chosen").fetchone() == (0,):
        first = db.execute("SELECT id, label, MIN(hash) FROM pool WHERE grp IS NULL GROUP BY label ORDER BY 3")
        rows = [(_improvement(missing, Counter([label])), (id_,)) for id_, label, _ in first]
        _, ids = max([*best, *rows], key=lambda unit: unit[0])
        db.executemany("INSERT INTO chosen VALUES (?)", [(id_,) for id_ in ids])
    db.execute("UPDATE rows SET split = ? WHERE rowid IN (SELECT id FROM chosen)", (name,))


def _choose_groups(db: sqlite3.Connection, missing: dict[Label, float]) -> list[tuple[float, tuple[int, ...]]]:
    """Add the rows of the groups that bring ``missing`` nearer to zero to ``chosen``, and subtract them.

    If there is none, the group that comes closest to it is returned: its improvement, and its rows.
    """
    best: list[tuple[float, tuple[int, ...]]] = []
    some = False
    for ids, labels in _groups(db):
        gain = _improvement(missing, labels)
        if gain > 0:
            some = True
            db.executemany("INSERT INTO chosen VALUES (?)", [(id_,) for id_ in ids])
            for label, count in labels.items():
                missing[label] -= count
        elif not some and (not best or gain > best[0][0]):
            best = [(gain, ids)]
    return best


def _groups(db: sqlite3.Connection) -> Iterator[tuple[tuple[int, ...], Counter[Label]]]:
    """The rows of each group, and its number of rows per label, in the order of the groups' hashes."""
    found = db.execute("SELECT hash, id, label FROM pool WHERE grp IS NOT NULL ORDER BY hash, id")
    for _, members in groupby(found, key=lambda row: row[0]):
        rows = list(members)
        yield tuple(id_ for _, id_, _ in rows), Counter(label for _, _, label in rows)


def _improvement(missing: Mapping[Label, float], unit: Counter[Label]) -> float:
    """By how much the unit reduces the distance to the target counts: positive if it should be chosen."""
    return sum(abs(missing[label]) - abs(missing[label] - count) for label, count in unit.items())
