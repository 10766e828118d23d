"""Finding the files to read."""

from __future__ import annotations

import os
from pathlib import Path

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.reader import FaceReader, find_files


def test_folders_and_globs_are_expanded_without_duplicates(images: Path, video: Path) -> None:
    inside = [str(images / name) for name in ("a.png", "b.png", "broken.png", "c.PNG", "empty.jpg", "sub/d.png")]
    assert find_files([str(images)]) == inside
    assert find_files([str(images / "*.png"), str(images)]) == [inside[0], inside[1], inside[2], *inside[3:]]
    assert find_files([str(images / "**/d.png")]) == [inside[5]]
    assert str(video) in find_files([str(video.parent)])
    assert find_files([str(images / "notes.txt")]) == [str(images / "notes.txt")]


def test_folders_that_are_links_are_entered_and_links_to_nowhere_are_rows(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "linked").symlink_to(images / "sub")
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.png").symlink_to(tmp_path / "nothing")
    assert find_files([str(folder)]) == [str(folder / "linked/d.png"), str(folder / "nowhere.png")]


def test_a_file_name_that_looks_like_a_pattern_is_a_file(images: Path) -> None:
    odd = images / "x[1].png"
    odd.write_bytes((images / "a.png").read_bytes())
    assert find_files([str(odd)]) == [str(odd)]


def test_a_file_name_that_is_not_utf8_is_a_row_with_an_error(images: Path) -> None:
    (images / "a.png").rename(images / os.fsdecode(b"f\xe9.png"))
    escaped = str(images / r"f\udce9.png")
    assert escaped in find_files([str(images)])
    options = PredictConfig.model_validate({"model": "M", "paths": ["x"], "detector": "none"})
    (row,) = FaceReader(options, images).crop_images([(escaped, FaceReader(options, images).load_image(escaped))])
    assert row.row.error == "file name that is not UTF-8: rename the file"
    assert "udce9" in row.row.model_dump_json()
