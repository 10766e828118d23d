"""FER2013 and FER+: synthetic data in the published layouts, and the real data if available."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer.data.images import decode_rgb, decode_untrusted
from fer.data.mapping import map_rows
from fer.data.options import DataOptions
from fer.data.schema import Source
from fer.data.sources import open_source
from fer.data.sources.ferplus import COLUMNS, distribution, majority
from fer.errors import BadRow, UserError
from fer.labels import get_space

WriteImages = Callable[..., Path]
Zipped = Callable[..., Path]
WriteCsv = Callable[..., Path]
Pixels = Callable[[int], str]


def open_at(path: Path, **options: str) -> Source:
    return open_source(DataOptions(data=str(path), **options))  # type: ignore[arg-type]


# FER2013


def test_fer2013_csv(fer2013_csv: Path, pixels: Pixels) -> None:
    source = open_at(fer2013_csv)
    rows = list(map_rows(source.rows(), source.space, source.space))
    assert source.format == "fer2013"
    assert [(row.path, row.label, row.split) for row in rows[:3]] == [
        ("fer2013.csv/fer0000000.png", "angry", "train"),
        ("fer2013.csv/fer0000001.png", "neutral", "val"),
        ("fer2013.csv/fer0000002.png", "happy", "test"),
    ]
    expected = np.array(pixels(2).split(), np.uint8).reshape(48, 48)
    assert (decode_rgb(rows[2].read())[..., 0] == expected).all()
    assert rows[3].error == "unknown label code 9 (label space fer2013)"
    assert "unknown usage 'Elsewhere'" in str(rows[5].error)
    for damaged, reason in ((rows[4], "not 2304 pixels"), (rows[6], "not whole numbers")):
        with pytest.raises(BadRow, match=reason):
            damaged.read()


def test_fer2013_csv_in_a_folder_and_in_a_zip(fer2013_csv: Path, zipped: Zipped) -> None:
    alone = [row.read() for row in list(open_at(fer2013_csv).rows())[:3]]
    for place in (fer2013_csv.parent, zipped(fer2013_csv.parent, inside="fer2013/")):
        source = open_at(place)
        assert source.format == "fer2013"
        assert [row.read() for row in list(source.rows())[:3]] == alone


def test_fer2013_reordered_columns_with_spaces(tmp_path: Path, write_csv: WriteCsv, pixels: Pixels) -> None:
    path = write_csv(tmp_path / "icml_face_data.csv", ("emotion", " Usage", " pixels"), (3, "Training", pixels(0)))
    (row,) = map_rows((source := open_at(path)).rows(), source.space, source.space)
    assert (row.label, row.split) == ("happy", "train")
    decode_untrusted(row.read())


@pytest.mark.slow
def test_real_fer2013_has_the_published_counts(shared_data: Path) -> None:
    counts: Counter[tuple[str | None, str | int]] = Counter()
    source = open_at(shared_data / "fer2013.zip")
    for row in source.rows():
        counts[row.split, row.label] += 1
    assert source.space.name == "fer2013"
    published = {
        "train": (3995, 436, 4097, 7215, 4965, 4830, 3171),
        "test": (958, 111, 1024, 1774, 1233, 1247, 831),
    }
    for split, expected in published.items():
        assert tuple(counts[split, label] for label in source.space.labels) == expected
    assert counts.total() == 28_709 + 7_178


# FER+


def votes(**counts: int) -> list[int]:
    return [counts.get(column, 0) for column in COLUMNS]


@pytest.mark.parametrize(
    ("counts", "winner"),
    [
        ({"happiness": 10}, "happiness"),
        ({"happiness": 4, "neutral": 4, "sadness": 2}, None),  # no more than half
        ({"happiness": 3, "neutral": 3}, None),  # exactly half
        ({"happiness": 4, "neutral": 3, "sadness": 1, "anger": 1, "fear": 1}, "happiness"),  # 4 of 7: ones are dropped
        ({"unknown": 6, "happiness": 4}, "unknown"),
        ({"NF": 10}, "NF"),
        (dict.fromkeys(COLUMNS, 1), None),  # nothing is left
    ],
)
def test_majority_rule_of_ferplus(counts: dict[str, int], winner: str | None) -> None:
    assert majority(votes(**counts)) == winner


def test_vote_distribution_is_in_the_order_of_the_label_space() -> None:
    shares = distribution(votes(happiness=6, anger=2, unknown=2, fear=1))
    assert dict(zip(get_space("ferplus").labels, shares, strict=True)) == {
        "angry": 0.25, "contempt": 0, "disgust": 0, "fear": 0, "happy": 0.75, "neutral": 0, "sad": 0, "surprise": 0,
    }  # fmt: skip


@pytest.fixture
def ferplus_csv(write_csv: WriteCsv) -> Callable[[Path], Path]:
    """ferplus_csv(folder): votes for two valid images, then for three excluded and two bad ones."""
    return lambda folder: write_csv(
        folder / "fer2013new.csv",
        ("Usage", "Image name", *COLUMNS),
        ("Training", "fer0000000.png", *votes(happiness=8, neutral=2)),
        ("PublicTest", "fer0000001.png", *votes(sadness=10)),
        ("PrivateTest", "", *votes(NF=10)),
        ("PrivateTest", "fer0000003.png", *votes(anger=5, fear=5)),
        ("Training", "fer0000004.png", *votes(unknown=9)),
        ("Training", "fer0000099.png", *votes(fear=9)),
        ("Training", "fer0000000.png", *["?"] * len(COLUMNS)),
    )


def check_ferplus(source: Source) -> None:
    rows = list(map_rows(source.rows(), source.space, source.space))
    assert source.format == "ferplus"
    assert [(row.label, row.split) for row in rows[:2]] == [("happy", "train"), ("sad", "val")]
    assert rows[0].votes is not None
    assert rows[0].votes[source.space.index("happy")] == pytest.approx(0.8)
    for row in rows[:2]:
        decode_untrusted(row.read())
    assert [row.excluded for row in rows[2:5]] == [
        "FER+ excludes it: no image name",
        "FER+ no majority",
        "FER+ majority votes for unknown",
    ]
    assert [row.error for row in rows[5:]] == ["missing file", "votes that are not whole numbers"]


def test_ferplus_with_the_csv_of_pixels(fer2013_csv: Path, ferplus_csv: WriteCsv) -> None:
    votes_csv = ferplus_csv(fer2013_csv.parent)
    check_ferplus(open_at(fer2013_csv.parent))
    check_ferplus(open_at(votes_csv))
    row = next(iter(open_at(votes_csv).rows()))
    assert row.read() == next(iter(open_at(fer2013_csv).rows())).read()


def test_ferplus_with_pngs_in_a_folder_and_in_a_zip(
    write_images: WriteImages, zipped: Zipped, ferplus_csv: WriteCsv
) -> None:
    data = write_images("images/fer0000000.png", "images/fer0000001.png")
    ferplus_csv(data)
    check_ferplus(open_at(data))
    check_ferplus(open_at(zipped(data)))
    zipped(data / "images")
    for path in (data / "images").glob("*.png"):
        path.unlink()
    check_ferplus(open_at(data))


def test_real_ferplus(shared_data: Path) -> None:
    source = open_at(shared_data / "ferplus")
    rows = list(map_rows(source.rows(), source.space, source.space))
    questions = json.loads((shared_data / "ferbench/ferplus_qa.json").read_text())
    answers = {question["image_path"].split("/")[-1]: question["true_label"] for question in questions}
    usable = {row.path.split("/")[-1]: row for row in rows if not row.error and not row.excluded}
    assert len(rows) == 35_887
    assert Counter(row.excluded for row in rows)["FER+ excludes it: no image name"] == 173
    assert len(usable) > 3_100
    assert set(usable) <= set(answers)  # the images that are there are the test part
    assert all(row.votes and max(row.votes) == row.votes[source.space.index(str(row.label))] for row in usable.values())
    agreement = sum(row.label == answers[name] for name, row in usable.items()) / len(usable)
    assert agreement > 0.98  # some of FERBench's answers go against eight of ten votes


def test_votes_are_mapped_with_the_labels(write_images: WriteImages, ferplus_csv: WriteCsv) -> None:
    data = write_images("fer0000000.png", "fer0000001.png")
    ferplus_csv(data)
    source = open_at(data)
    target = get_space("six-class")
    first = next(iter(map_rows(source.rows(), source.space, target)))
    assert first.label == "happy"
    assert first.votes == (0, 0, 0, 1, 0, 0)  # two votes for neutral have no counterpart


def test_ferplus_that_is_cut_off_has_a_bad_last_row(write_images: WriteImages, ferplus_csv: WriteCsv) -> None:
    data = write_images("fer0000000.png", "fer0000001.png")
    with ferplus_csv(data).open("a") as file:
        file.write("Training")
    *_, last = open_at(data).rows()
    assert (last.path, last.error) == ("data/fer2013new.csv:9", "votes that are not whole numbers")


def test_ferplus_without_its_columns_is_a_user_error(write_images: WriteImages) -> None:
    data = write_images("fer0000000.png")
    (data / "fer2013new.csv").write_text("Image name,label\nfer0000000.png,happy\n")
    with pytest.raises(UserError, match="lacks columns"):
        open_at(data)


def test_a_csv_is_given_by_its_relative_path(
    fer2013_csv: Path, monkeypatch: pytest.MonkeyPatch, ferplus_csv: WriteCsv
) -> None:
    ferplus_csv(fer2013_csv.parent)
    monkeypatch.chdir(fer2013_csv.parent)
    rows = list(open_at(Path("fer2013new.csv")).rows())
    assert rows[0].path == "data/fer0000000.png"
