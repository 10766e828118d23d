from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.schema import FaceRow
from fer.data.splits import assign_splits

LABELS = ("happy", "sad", "fear")


def row(path: str, label: str = "happy", split: str | None = None, group: str | None = None) -> FaceRow:
    return FaceRow(path, label, bytes, split, group)


@st.composite
def data_sets(draw: st.DrawFn, grouped: bool, splits: tuple[str | None, ...] = (None,)) -> list[FaceRow]:
    count = draw(st.integers(0, 80))
    label, split = st.sampled_from(LABELS), st.sampled_from(splits)
    groups = st.one_of(st.none(), st.integers(0, 12).map("subject{}".format)) if grouped else st.none()
    return [row(f"{i}.png", draw(label), draw(split), draw(groups)) for i in range(count)]


shares = st.floats(0, 0.6)
seeds = st.integers(0, 1000)


@settings(deadline=None)  # SQLite writes files
@given(data_sets(grouped=True, splits=(None, "train")), shares, shares, seeds, st.randoms())
def test_same_seed_same_split_whatever_the_order(rows, val, test, seed, random) -> None:  # type: ignore[no-untyped-def]
    before = dict(
        zip([r.path for r in rows], assign_splits(rows, val_split=val, test_split=test, seed=seed), strict=True)
    )
    shuffled = random.sample(rows, len(rows))
    after = assign_splits(shuffled, val_split=val, test_split=test, seed=seed)
    assert {r.path: split for r, split in zip(shuffled, after, strict=True)} == before


@settings(deadline=None)  # SQLite writes files
@given(data_sets(grouped=True), shares, shares, seeds)
def test_a_group_never_crosses_splits(rows: list[FaceRow], val: float, test: float, seed: int) -> None:
    splits = defaultdict(set)
    for r, split in zip(rows, assign_splits(rows, val_split=val, test_split=test, seed=seed), strict=True):
        splits[r.group or r.path].add(split)
    assert all(len(its) == 1 for its in splits.values())


@settings(deadline=None)  # SQLite writes files
@given(data_sets(grouped=True, splits=(None, "train", "val", "test")), shares, shares, seeds)
def test_rows_without_a_split_join_their_group(rows: list[FaceRow], val: float, test: float, seed: int) -> None:
    assigned = assign_splits(rows, val_split=val, test_split=test, seed=seed)
    joined = defaultdict(set)
    for r, split in zip(rows, assigned, strict=True):
        if r.group and r.split:
            joined[r.group].add(split)
    for r, split in zip(rows, assigned, strict=True):
        if r.split in ("val", "test"):
            assert split == r.split
        elif r.split is None and r.group in joined:
            assert split in joined[r.group]


@settings(deadline=None)  # SQLite writes files
@given(data_sets(grouped=False), st.floats(0.05, 0.6), seeds)
def test_every_label_gives_its_rounded_fraction(rows: list[FaceRow], val: float, seed: int) -> None:
    splits = assign_splits(rows, val_split=val, test_split=0, seed=seed)
    total = Counter(r.label for r in rows)
    cut = Counter(r.label for r, split in zip(rows, splits, strict=True) if split == "val")
    assert set(splits) <= {"train", "val"}
    if cut.total() > 1:  # a lone row may be there so that the part is not empty
        assert all(abs(cut[label] - val * total[label]) <= 0.5 + 1e-9 for label in total)


@settings(deadline=None)  # SQLite writes files
@given(data_sets(grouped=True), st.floats(0.01, 0.5), seeds)
def test_a_requested_split_is_not_empty(rows: list[FaceRow], val: float, seed: int) -> None:
    splits = assign_splits(rows, val_split=val, test_split=0, seed=seed)
    if len({r.group or r.path for r in rows}) > 1:
        assert set(splits) == {"train", "val"}


def test_different_seeds_differ() -> None:
    rows = [row(f"{i}.png") for i in range(100)]
    assert assign_splits(rows, val_split=0.2, test_split=0, seed=0) != assign_splits(
        rows, val_split=0.2, test_split=0, seed=1
    )


def test_published_splits_are_kept() -> None:
    rows = [row(f"{i}.png", split=("train", "val", "test")[i % 3]) for i in range(90)]
    assert assign_splits(rows, val_split=0.5, test_split=0.5, seed=0) == [r.split for r in rows]


def test_validation_is_taken_from_training_only_if_there_is_none() -> None:
    rows = [row(f"{i}.png", split="train" if i < 80 else "test") for i in range(100)]
    splits = assign_splits(rows, val_split=0.25, test_split=0.5, seed=0)
    assert Counter(splits) == {"train": 60, "val": 20, "test": 20}
    assert splits[80:] == ["test"] * 20


def test_rows_without_a_split_are_divided_beside_published_splits() -> None:
    published = [row(f"a{i}.png", split=("train", "val")[i % 2]) for i in range(20)]
    splits = assign_splits([*published, *(row(f"b{i}.png") for i in range(20))], val_split=0.1, test_split=0.2, seed=0)
    assert Counter(splits[20:])["val"] == 2
    assert [s for s in splits[:20] if s == "val"] == ["val"] * 10


def test_the_fraction_of_groups_is_near_the_requested_one() -> None:
    rows = [row(f"{i}.png", LABELS[i % 3], group=f"subject{i % 50}") for i in range(1500)]
    splits = assign_splits(rows, val_split=0.2, test_split=0, seed=3)
    for label in LABELS:
        share = sum(s == "val" for r, s in zip(rows, splits, strict=True) if r.label == label) / 500
        assert abs(share - 0.2) < 0.05


def test_adding_a_row_changes_few_splits() -> None:
    rows = [row(f"{i}.png") for i in range(200)]
    before = assign_splits(rows, val_split=0.1, test_split=0, seed=0)
    after = assign_splits([*rows, replace(rows[0], path="new.png")], val_split=0.1, test_split=0, seed=0)
    assert sum(a != b for a, b in zip(before, after, strict=False)) <= 2
