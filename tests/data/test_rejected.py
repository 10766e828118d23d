"""Rows that can't be used are left out, counted and listed with their reasons; too many stop the job."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.errors import UserError

WriteImages = Callable[..., Path]
MakeOptions = Callable[..., PrepareOptions]


def read_reasons(path: Path) -> dict[str, str]:
    """Path and reason of each row in a list of rejected rows."""
    return {entry["path"]: entry["reason"] for entry in map(json.loads, path.read_text().splitlines())}


def test_an_image_that_only_pillow_reads_is_rejected(faces: Path, prepare_options: MakeOptions) -> None:
    Image.new("RGB", (24, 24)).save(faces / "happy/00.png", "TGA")  # training decodes with OpenCV
    dataset = prepare(prepare_options(faces, max_bad_fraction=0.1))
    assert dataset.manifest.rejected == {"not an image of a supported format": 1}


def test_each_kind_of_bad_row_is_rejected(
    write_images: WriteImages, prepare_options: MakeOptions, decompression_bomb: bytes, tmp_path: Path
) -> None:
    names = [f"train_{i:05d}.jpg" for i in range(9)]
    data = write_images(*(f"Image/aligned/{name}" for name in names))
    images = data / "Image/aligned"
    (images / names[0]).write_bytes(b"")
    whole = (images / names[1]).read_bytes()
    (images / names[1]).write_bytes(whole[: len(whole) // 2])
    (images / names[2]).write_text("<html>not an image</html>")
    (images / names[3]).write_bytes(decompression_bomb)
    (images / names[4]).unlink()
    labels = [1, 1, 1, 1, 1, 99, 1, 2, 3]
    lines = [f"{name} {label}" for name, label in zip(names, labels, strict=True)]
    (data / "list_patition_label.txt").write_text("\n".join(lines))

    dataset = prepare(prepare_options(data, max_bad_fraction=0.7, val_split=0))

    reasons = {Path(path).name: reason for path, reason in read_reasons(tmp_path / "shards/rejected.jsonl").items()}
    assert reasons == {
        names[0]: "empty file",
        names[1]: "truncated or damaged image",
        names[2]: "not an image of a supported format",
        names[3]: "60000x60000 pixels, more than 64000000",
        names[4]: "missing file",
        names[5]: "unknown label code 99 (label space rafdb)",
    }
    assert dataset.manifest.rejected == dict.fromkeys(reasons.values(), 1)
    kept = pq.read_table(tmp_path / "shards/split=train")["path"].to_pylist()
    assert sorted(Path(path).name for path in kept) == names[6:]


def test_file_names_that_are_not_utf8_are_rejected(faces: Path, prepare_options: MakeOptions, tmp_path: Path) -> None:
    name, folder = (os.fsdecode(text) for text in (b"f\xe9.png", b"fach\xe9"))
    (faces / "happy/00.png").rename(faces / "happy" / name)
    (faces / folder).mkdir()
    (faces / "happy/01.png").rename(faces / folder / "01.png")
    dataset = prepare(prepare_options(faces, max_bad_fraction=0.1))
    assert read_reasons(tmp_path / "shards/rejected.jsonl") == {
        r"data/happy/f\udce9.png": "file name that is not UTF-8",
        r"data/fach\udce9/01.png": r"unknown label 'fach\udce9' (label space custom: fear, happy, sad)",
    }
    assert dataset.manifest.labels == ["fear", "happy", "sad"]
    assert dataset.manifest.counts.total() == 48


def test_too_many_bad_rows_stop_the_job_and_are_listed(
    faces: Path, prepare_options: MakeOptions, tmp_path: Path
) -> None:
    for i in range(3):
        (faces / f"happy/{i:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"3 of 50 rows are bad .* 0\.05.*shards\.rejected\.jsonl") as refusal:
        prepare(prepare_options(faces, max_bad_fraction=0.05))
    path = tmp_path / "shards.rejected.jsonl"
    assert str(path) in str(refusal.value)
    assert read_reasons(path) == {f"data/happy/{i:02d}.png": "empty file" for i in range(3)}
    assert not (tmp_path / "shards/manifest.json").exists()
    dataset = prepare(prepare_options(faces, max_bad_fraction=0.06))
    assert dataset.manifest.rejected == {"empty file": 3}
    assert not path.exists()


def test_excluded_rows_are_not_bad(faces: Path, prepare_options: MakeOptions, tmp_path: Path) -> None:
    dataset = prepare(prepare_options(faces, max_bad_fraction=0, label_space="ferplus"))
    assert dataset.manifest.counts.total() == 50
    (faces / "neutral").mkdir()
    for path in (faces / "happy").iterdir():
        (faces / "neutral" / path.name).write_bytes(path.read_bytes())
    dataset = prepare(prepare_options(faces, max_bad_fraction=0, label_space="six-class", overwrite=True))
    assert dataset.manifest.label_space == "six-class"
    assert dataset.manifest.rejected == {"label neutral has no counterpart in six-class": 20}
    assert len(read_reasons(tmp_path / "shards/rejected.jsonl")) == 20


def test_no_usable_row_is_an_error(faces: Path, prepare_options: MakeOptions) -> None:
    for path in faces.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="50 of 50 rows"):
        prepare(prepare_options(faces, max_bad_fraction=1))
