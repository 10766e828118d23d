"""Output formats."""

from __future__ import annotations

import csv
import io
import json

import pytest

from fer.classifier.predict.rows import PredictionRow
from fer.classifier.predict.writers import CsvWriter, JsonLinesWriter, TableWriter, choose_format

ROWS = [
    PredictionRow(
        path="a,b.png", face=0, box=(1, 2, 3, 4), label="anger", confidence=0.7, scores={"anger": 0.7, "fear": 0.3}
    ),
    PredictionRow(path="[red].png", error="empty file"),
]


def test_json_lines_have_every_key() -> None:
    stream = io.StringIO()
    JsonLinesWriter(stream).write(ROWS)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [set(line) for line in lines] == [set(PredictionRow.model_fields)] * 2
    assert [PredictionRow.model_validate(line) for line in lines] == ROWS


def test_csv_has_a_column_for_each_number() -> None:
    stream = io.StringIO()
    CsvWriter(stream, ["anger", "fear"]).write(ROWS)
    lines = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert lines[0]["path"] == "a,b.png"
    assert [lines[0][key] for key in ("left", "top", "width", "height")] == ["1.0", "2.0", "3.0", "4.0"]
    assert (lines[0]["p_anger"], lines[0]["p_fear"], lines[1]["p_fear"]) == ("0.7", "0.3", "")
    assert lines[1]["error"] == "empty file"


def test_the_table_shows_paths_verbatim_and_no_empty_columns() -> None:
    stream = io.StringIO()
    table = TableWriter(stream)
    table.write(ROWS)
    table.close()
    assert "[red].png" in stream.getvalue()
    assert "anger 70  fear 30" in stream.getvalue()
    assert "valence" not in stream.getvalue()


@pytest.mark.parametrize(
    ("requested", "out", "expected"),
    [("auto", None, "jsonl"), ("auto", "x.csv", "csv"), ("auto", "x.jsonl", "jsonl"), ("table", "x.csv", "table")],
)
def test_the_format_follows_the_file(requested: str, out: str | None, expected: str) -> None:
    assert choose_format(requested, out) == expected
