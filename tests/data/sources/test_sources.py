"""Folders, RAF-DB, AffectNet, SFEW and mixes, each on a small data set in its published layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer.data.images import decode_untrusted, encode_jpeg
from fer.data.mapping import map_rows
from fer.data.options import DataOptions, PrepareOptions
from fer.data.prepare import prepare
from fer.data.schema import FaceRow, Source
from fer.data.sources import open_source
from fer.errors import BadRow, UserError

WriteImages = Callable[..., Path]
Zipped = Callable[..., Path]
WriteCsv = Callable[..., Path]


def open_at(path: Path, **options: str) -> Source:
    return open_source(DataOptions(data=str(path), **options))  # type: ignore[arg-type]


def by_path(source: Source) -> dict[str, FaceRow]:
    """Resolved rows by path without the data set's name; every usable image is decoded."""
    rows = {row.path.partition("/")[2]: row for row in map_rows(source.rows(), source.space, source.space)}
    for row in rows.values():
        if not row.error and not row.excluded:
            decode_untrusted(row.read())
    return rows


# Folders


def test_folder_with_train_val_and_test(write_images: WriteImages) -> None:
    data = write_images("train/happy/1.jpg", "Validation/happy/2.png", "test/sad/deep/3.jpg")
    (data / "notes.txt").write_text("no row")
    source = open_at(data)
    rows = by_path(source)
    assert source.format == "folder"
    assert {path: (row.split, row.label) for path, row in rows.items()} == {
        "train/happy/1.jpg": ("train", "happy"),
        "Validation/happy/2.png": ("val", "happy"),
        "test/sad/deep/3.jpg": ("test", "sad"),
    }


def test_a_folder_of_classes_has_no_splits(write_images: WriteImages) -> None:
    rows = by_path(open_at(write_images("happy/1.jpg", "sad/2.jpg")))
    assert [(row.split, row.label, row.group) for row in rows.values()] == [(None, "happy", None), (None, "sad", None)]


def test_class_folders_that_differ_by_case_are_one_class(write_images: WriteImages) -> None:
    source = open_at(write_images("train/Happy/1.jpg", "train/Sad/2.jpg", "test/happy/3.jpg", "test/sad/4.jpg"))
    assert source.space.labels == ("happy", "sad")
    assert [(row.split, row.label) for row in by_path(source).values()] == [
        ("test", "happy"),
        ("test", "sad"),
        ("train", "happy"),
        ("train", "sad"),
    ]


def test_a_folder_lists_the_files_that_it_excludes(write_images: WriteImages) -> None:
    data = write_images("train/happy/1.jpg", "train/stray.jpg")
    (data / "train/happy/list.txt").write_text("1.jpg")
    reasons = {path: row.excluded for path, row in by_path(open_at(data)).items()}
    assert reasons == {
        "train/happy/1.jpg": None,
        "train/happy/list.txt": "no suffix of an image file",
        "train/stray.jpg": "not in a class folder",
    }


@pytest.mark.parametrize(
    ("names", "space"),
    [
        (["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"], "fer2013"),
        (["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"], "basic"),
        (["anger", "disgust", "fear", "happy", "sad", "surprised"], "six-class"),
        (["grin", "frown"], "custom"),
    ],
)
def test_folder_infers_the_label_space(write_images: WriteImages, names: list[str], space: str) -> None:
    assert open_at(write_images(*(f"{name}/1.png" for name in names))).space.name == space


def test_ck_plus_and_jaffe_file_names_give_the_subject(write_images: WriteImages) -> None:
    data = write_images("anger/S005_001_00000011.png", "anger/KA.AN1.39.tiff", "anger/scan_1.png")
    groups = {path: row.group for path, row in by_path(open_at(data)).items()}
    assert groups == {"anger/S005_001_00000011.png": "S005", "anger/KA.AN1.39.tiff": "KA", "anger/scan_1.png": None}


def test_flat_jaffe_folder_takes_labels_from_file_names(write_images: WriteImages) -> None:
    rows = by_path(open_at(write_images("KA.AN1.39.tiff", "KM.HA2.5.tiff", "NA.SU1..tiff")))
    assert [(row.label, row.group) for row in rows.values()] == [
        ("anger", "KA"),
        ("happiness", "KM"),
        ("surprise", "NA"),
    ]


def test_a_folder_without_classes_is_a_user_error(write_images: WriteImages) -> None:
    with pytest.raises(UserError, match="no images in class folders"):
        open_at(write_images("1.jpg", "2.jpg"))


def test_a_zip_works_like_a_folder(faces: Path, zipped: Zipped) -> None:
    folder, archive = by_path(open_at(faces)), by_path(open_at(zipped(faces)))
    assert list(archive) == list(folder)
    assert [row.read() for row in archive.values()] == [row.read() for row in folder.values()]


# RAF-DB, AffectNet, SFEW


def test_rafdb(write_images: WriteImages, zipped: Zipped) -> None:
    data = write_images(
        "Image/aligned/train_00001_aligned.jpg", "Image/original/train_00001.jpg", "Image/original/test_0001.jpg"
    )
    (data / "EmoLabel").mkdir()
    lines = ["train_00001.jpg 4", "test_0001.jpg 7", "train_00002.jpg 1", "test_0002.jpg 8", "other_1.jpg 1", ""]
    (data / "EmoLabel/list_patition_label.txt").write_text("\n".join(lines))
    for place in (data, zipped(data, inside="basic/")):
        source = open_at(place)
        rows = list(map_rows(source.rows(), source.space, source.space))
        assert source.format == "rafdb"
        assert [(row.label, row.split) for row in rows[:3]] == [
            ("happiness", "train"),
            ("neutral", "test"),
            ("surprise", "train"),
        ]
        assert rows[0].read() == (data / "Image/aligned/train_00001_aligned.jpg").read_bytes()
        assert rows[1].read() == (data / "Image/original/test_0001.jpg").read_bytes()
        with pytest.raises(BadRow, match="missing file"):
            rows[2].read()
        assert rows[3].error == "unknown label code 8 (label space rafdb)"
        assert rows[4].error == "file name without the prefix train_ or test_"


AFFECTNET = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression")


@pytest.mark.parametrize("header_of_validation", [True, False])
def test_affectnet_tables(write_images: WriteImages, write_csv: WriteCsv, header_of_validation: bool) -> None:
    data = write_images("Manually_Annotated_Images/689/a.jpg", "Manually_Annotated_Images/103/b.JPG")
    header = (*AFFECTNET, "valence", "arousal")
    box = (0, 0, 24, 24, "1.0;2.0")
    write_csv(
        data / "training.csv",
        header,
        ("689/a.jpg", *box, 1, 0.75, -0.25),
        ("689/absent.jpg", *box, 7, 0.1, 0.1),
        ("689/a.jpg", *box, 10, -2, -2),
        ("689/a.jpg", *box, 12, -2, -2),
    )
    write_csv(data / "validation.csv", *([header] if header_of_validation else []), ("103/b.JPG", *box, 0, 0, -2))
    source = open_at(data / "training.csv")
    rows = list(map_rows(source.rows(), source.space, source.space))
    assert source.format == "affectnet"
    assert (rows[0].label, rows[0].split, rows[0].valence, rows[0].arousal) == ("happiness", "train", 0.75, -0.25)
    assert (rows[4].label, rows[4].split, rows[4].valence, rows[4].arousal) == ("neutral", "val", 0.0, None)
    assert decode_untrusted(rows[0].read()).shape == (24, 24, 3)
    with pytest.raises(BadRow, match="missing file"):
        rows[1].read()
    assert rows[2].excluded == "AffectNet expression 10 (no face)"
    assert rows[3].error == "unknown label code 12 (label space affectnet)"


def test_affectnet_faces_are_cut_out_of_the_photographs(
    write_csv: WriteCsv, prepare_options: Callable[..., PrepareOptions], tmp_path: Path
) -> None:
    """Each photograph is black with a white face, sometimes beyond its edges; rows without a face are listed."""
    boxes = {
        "inside": (30, 20, 40, 40),
        "wide": (10, 50, 60, 30),
        "over-the-edge": (-10, 70, 40, 50),
        "larger-than-the-photograph": (-50, -50, 500, 500),
        "outside": (200, 10, 40, 40),
        "empty": (30, 20, 0, 40),
        "unknown": ("", "", "", ""),
        "no-face": ("NULL", "NULL", "NULL", "NULL"),
    }
    lines = []
    for name, box in boxes.items():
        photograph = np.zeros((100, 120, 3), np.uint8)
        if name in ("inside", "wide", "over-the-edge", "larger-than-the-photograph"):
            x, y, width, height = (int(value) for value in box)
            photograph[max(y, 0) : y + height, max(x, 0) : x + width] = 255
        path = tmp_path / f"data/images/1/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(photograph))
        lines.append((f"1/{name}.jpg", *box, "1.0;2.0", 10 if name == "no-face" else 1, 0.5, 0.5))
    write_csv(tmp_path / "data/training.csv", (*AFFECTNET, "valence", "arousal"), *lines)
    write_csv(tmp_path / "data/validation.csv", ("1/inside.jpg", *boxes["inside"], "1.0;2.0", 1, 0.5, 0.5))

    dataset = prepare(prepare_options(tmp_path / "data", max_bad_fraction=0.9))
    tables = [pq.read_table(dataset.path(shard)) for shard in dataset.split("train").shards]
    faces = {Path(row["path"]).stem: decode_untrusted(row["image"]) for row in pa.concat_tables(tables).to_pylist()}
    assert {name: face.shape[:2] for name, face in faces.items()} == {
        "inside": (40, 40),
        "wide": (60, 60),
        "over-the-edge": (30, 30),
        "larger-than-the-photograph": (120, 120),
    }
    assert all(faces[name].mean() > 250 for name in ("inside", "over-the-edge", "larger-than-the-photograph"))
    lines_of = [json.loads(line) for line in Path(dataset.root, "rejected.jsonl").read_text().splitlines()]
    assert {Path(line["path"]).stem: line["reason"] for line in lines_of} == {
        "outside": "the face box is outside the image",
        "empty": "no face box in the table",
        "unknown": "no face box in the table",
        "no-face": "AffectNet expression 10 (no face)",
    }


def annotate(data: Path, split: str, number: int, expression: object, valence: object, arousal: object) -> None:
    folder = data / split / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, value in (("exp", expression), ("val", valence), ("aro", arousal)):
        np.save(folder / f"{number}_{kind}.npy", np.array(value), allow_pickle=value is None)


def test_affectnet_annotated_folders(write_images: WriteImages, zipped: Zipped) -> None:
    data = write_images(*(f"train_set/images/{i}.jpg" for i in range(4)), "val_set/images/0.jpg")
    annotate(data, "train_set", 0, "3", "0.5", "0.25")
    annotate(data, "train_set", 1, 8, -2, -2)
    annotate(data, "train_set", 2, None, None, None)  # pickled: must not be unpickled
    annotate(data, "val_set", 0, 6, -0.5, 1.0)
    for place in (data, zipped(data)):
        source = open_at(place)
        rows = by_path(source)
        assert source.format == "affectnet"
        kept = rows["train_set/images/0.jpg"]
        assert (kept.label, kept.split, kept.valence, kept.arousal) == ("surprise", "train", 0.5, 0.25)
        assert rows["train_set/images/1.jpg"].excluded == "AffectNet expression 8 (none)"
        assert rows["train_set/images/2.jpg"].error == "annotation missing or damaged"
        assert rows["train_set/images/3.jpg"].error == "annotation missing or damaged"
        assert (rows["val_set/images/0.jpg"].label, rows["val_set/images/0.jpg"].split) == ("anger", "val")


def test_affectnet_numbered_folders(write_images: WriteImages) -> None:
    source = open_at(write_images("train/0/a.jpg", "train/7/b.jpg", "val/8/c.jpg", "val/x/d.jpg"), format="affectnet")
    rows = by_path(source)
    assert [(row.label, row.split) for row in list(rows.values())[:2]] == [("neutral", "train"), ("contempt", "train")]
    assert rows["val/8/c.jpg"].excluded == "AffectNet expression 8 (none)"
    assert "unknown label 'x'" in str(rows["val/x/d.jpg"].error)


def test_sfew_groups_by_film(write_images: WriteImages) -> None:
    source = open_at(
        write_images(
            "Train/Angry/AlexEmma_000153240_00000001.png",
            "Val/Surprise/Bridesmaids_012015680_00000006.png",
            "Test/Hangover_000335640_00000010.png",
        )
    )
    rows = list(by_path(source).values())
    assert (source.format, source.space.name) == ("sfew", "sfew")
    assert [(row.label, row.split, row.group, row.excluded) for row in rows] == [
        ("", "test", None, "not in a class folder"),
        ("angry", "train", "AlexEmma", None),
        ("surprise", "val", "Bridesmaids", None),
    ]


# Mixes


@pytest.fixture
def mix(tmp_path: Path, fer2013_csv: Path, write_images: WriteImages) -> Path:
    write_images("anger/S005_001_00000011.png", "contempt/S138_008_00000009.png", root="ck+")
    write_images("KA.SU1.39.tiff", "KA.NE1.26.tiff", root="jaffe")
    path = tmp_path / "mix.yaml"
    path.write_text(
        "label_space: six-class\n"
        "sources:\n"
        "  - {data: data/fer2013.csv, name: fer2013}\n"
        "  - {data: ck+, format: folder}\n"
        f"  - {{data: {tmp_path}/jaffe}}\n"
    )
    return path


def test_mix_maps_three_data_sets_into_one_space(mix: Path) -> None:
    source = open_at(mix)
    rows = {row.path: row for row in map_rows(source.rows(), source.space, source.space)}
    assert (source.format, source.space.name) == ("mix", "six-class")
    assert [(row.label, row.split) for row in list(rows.values())[:3]] == [
        ("anger", "train"),
        ("6", "val"),
        ("happy", "test"),
    ]
    assert rows["fer2013/fer0000001.png"].excluded == "label neutral has no counterpart in six-class"
    assert rows["fer2013/fer0000003.png"].error == "unknown label code 9 (label space fer2013)"
    ck = rows["ck+/anger/S005_001_00000011.png"]
    assert (ck.label, ck.group, ck.split) == ("anger", "ck+/S005", None)
    assert rows["ck+/contempt/S138_008_00000009.png"].excluded == "label contempt has no counterpart in six-class"
    assert rows["jaffe/KA.SU1.39.tiff"].label == "surprised"
    decode_untrusted(rows["jaffe/KA.SU1.39.tiff"].read())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label_space: six-class\nsources: []", "sources"),
        ("label_space: seven\nsources: [{data: ck+}]", "no label space 'seven'"),
        ("label_space: six-class\nsources: [{data: ck+}, {data: ck+}]", "a different name"),
        ("label_space: six-class\nsources: [{data: absent}]", "no such file or folder"),
        ("label_space: [", "not YAML"),
        ("label_space: six-class\nsources: [{data: mix.yaml}]", r"mix\.yaml lists itself"),
        ("label_space: six-class\nsources: [{data: ck+}]\nweights: 1", "unknown option --weights"),
    ],
)
def test_errors_in_a_mix_are_user_errors(mix: Path, text: str, message: str) -> None:
    mix.write_text(text)
    with pytest.raises(UserError, match=message):
        open_at(mix)


# Any


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("ferplus", "no fer2013new.csv"),
        ("rafdb", "no list_patition_label.txt"),
        ("fer2013", "no CSV with the columns"),
        ("mix", "not a mix"),
        ("shards", "shards already"),
    ],
)
def test_a_wrong_format_is_a_user_error(faces: Path, chosen: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_at(faces, format=chosen)


def test_the_fingerprint_depends_on_the_files(faces: Path) -> None:
    before = open_at(faces).fingerprint()
    assert open_at(faces).fingerprint() == before
    (faces / "happy/00.png").write_bytes(b"changed")
    assert open_at(faces).fingerprint() != before
