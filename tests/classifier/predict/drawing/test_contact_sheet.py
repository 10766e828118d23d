"""Contact sheets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer.classifier.predict.drawing.card import Face
from fer.classifier.predict.drawing.contact_sheet import COLUMNS, GAP, ROWS, SIDE, ContactSheets
from fer.classifier.predict.rows import NO_FACE, PredictionRow

Make = Callable[..., PredictionRow]
LABELS = ("anger", "happiness", "sadness")
RED = np.full((30, 20, 3), (200, 0, 0), np.uint8)


@pytest.mark.parametrize(("faces", "pages"), [(0, 0), (1, 1), (48, 1), (49, 2), (97, 3)])
def test_a_page_holds_eight_by_six_faces(make_row: Make, tmp_path: Path, faces: int, pages: int) -> None:
    sheets = ContactSheets(tmp_path, LABELS)
    for _ in range(faces):
        sheets.add(Face(make_row(), RED))
    sheets.finish()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"contact-sheet-{n + 1}.jpg" for n in range(pages)]


def test_the_last_page_is_cut_to_its_faces(make_row: Make, tmp_path: Path) -> None:
    sheets = ContactSheets(tmp_path, LABELS)
    for _ in range(COLUMNS * ROWS + 2):
        sheets.add(Face(make_row(), RED))
    sheets.finish()
    full, rest = (Image.open(tmp_path / f"contact-sheet-{page}.jpg").size for page in (1, 2))
    assert full[0] == GAP + COLUMNS * (SIDE + GAP)
    assert rest[0] == GAP + 2 * (SIDE + GAP)
    assert rest[1] < full[1] / 5


def test_each_face_is_in_its_cell_and_a_picture_without_one_is_grey(make_row: Make, tmp_path: Path) -> None:
    sheets = ContactSheets(tmp_path, LABELS)
    sheets.add(Face(make_row(), RED))
    sheets.add(Face(PredictionRow(path="b.png", error=NO_FACE), RED))
    sheets.finish()
    page = np.asarray(Image.open(tmp_path / "contact-sheet-1.jpg"), int)
    first, second = (page[GAP + SIDE // 2, GAP + SIDE // 2 + n * (SIDE + GAP)] for n in (0, 1))
    assert first == pytest.approx([200, 0, 0], abs=8)
    assert second.max() - second.min() < 8
