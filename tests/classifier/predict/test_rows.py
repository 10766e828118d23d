"""Rows as a pandas table, and the closing summary."""

from __future__ import annotations

import csv
import io

import pytest

from fer.classifier.predict.rows import NO_FACE, UNCERTAIN, PredictionList, PredictionRow, PredictionSummary, percent
from fer.classifier.predict.writers import CsvWriter

LABELS = ("anger", "fear")
FACE = PredictionRow(
    path="a.png", face=0, box=(1, 2, 3, 4), label="anger", confidence=0.7, scores={"anger": 0.7, "fear": 0.3}
)
ERROR = PredictionRow(path="b.png", error="empty file")


def face(label: str | None, path: str = "a.png", **fields: object) -> PredictionRow:
    return PredictionRow.model_validate({"path": path, "label": label, **fields})


def test_a_list_of_rows_is_a_list() -> None:
    rows = PredictionList([FACE], LABELS)
    rows.extend([ERROR])
    assert rows == [FACE, ERROR]
    assert rows[0].label == "anger"


def test_the_frame_has_the_columns_and_values_of_the_csv_file() -> None:
    rows = PredictionList([FACE, ERROR], LABELS)
    frame, stream = rows.to_frame(), io.StringIO()
    CsvWriter(stream, LABELS).write(rows)
    lines = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert list(frame.columns) == list(lines[0])
    assert [frame.left[0], frame.height[0], frame.p_anger[0]] == [1.0, 4.0, 0.7]
    assert frame.loc[1, ["label", "left", "p_fear"]].isna().all()
    assert frame.groupby("label").p_anger.mean().to_dict() == {"anger": 0.7}


def test_an_empty_frame_has_the_columns() -> None:
    frame = PredictionList([], LABELS).to_frame()
    assert len(frame) == 0
    assert list(frame.columns) == list(PredictionList([FACE], LABELS).to_frame().columns)


def test_the_best_label_is_also_that_of_an_uncertain_face() -> None:
    assert FACE.model_copy(update={"label": UNCERTAIN}).best_label == "anger"
    assert ERROR.best_label is None


def summary(*files: list[PredictionRow]) -> str:
    counts = PredictionSummary()
    for rows in files:
        counts.add(rows)
    return str(counts)


def test_the_summary_has_the_share_of_each_label_the_most_frequent_first() -> None:
    group = [face("fear"), *[face("anger")] * 2, face(UNCERTAIN)]
    assert summary(group) == "4 faces in 1 file: anger 50%, fear 25%; 1 uncertain"
    assert summary([face("fear")] * 1999 + [face("anger")]) == "2,000 faces in 1 file: fear 100%, anger <1%"


def test_the_summary_counts_what_has_no_prediction() -> None:
    none = [face(None, error=NO_FACE)]
    assert summary([face("fear")], none, none, [ERROR]) == (
        "1 face in 3 of 4 files: fear 100%; 2 images without a face; 1 error, the first: b.png: empty file"
    )
    assert summary(none) == "0 faces in 1 file; 1 image without a face"


def test_faces_of_a_video_are_counted_in_each_frame() -> None:
    film = [*(face(label, frame=0) for label in LABELS), face(None, frame=1, error=NO_FACE)]
    assert summary(film) == "2 faces in 1 file (2 frames of video): anger 50%, fear 50%; 1 frame without a face"


def test_a_model_of_valence_and_arousal_has_no_shares() -> None:
    assert summary([face(None, valence=0.1, arousal=0.2)]) == "1 face in 1 file"


@pytest.mark.parametrize(("share", "text"), [(0, "0%"), (0.004, "<1%"), (0.006, "1%"), (0.126, "13%"), (1, "100%")])
def test_percentages(share: float, text: str) -> None:
    assert percent(share) == text
