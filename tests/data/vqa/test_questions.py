from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import encode_png
from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions, QuestionOptions
from fer.data.prepare import open_dataset, prepare
from fer.data.vqa.prepare import open_questions
from fer.data.vqa.questions import ImageRoot, Question, Turn, parse_question, read_questions
from fer.errors import BadRow, UserError

SFT = {"image_path": "/a/0.png", "question": "Which?", "response": "<think>t</think><answer>fear</answer>"}
GRPO = {"image_path": "/a/0.png", "problem": "Which?", "solution": "<answer>fear</answer>"}
BENCH = {"image_path": "/a/0.png", "prompt": "Which?", "true_label": "fear", "candidate_labels": ["fear", "joy"]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    import numpy as np

    for i in range(20):
        file = tmp_path / f"images/a/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(np.full((8, 8, 3), i, np.uint8)))
    return tmp_path / "images"


def read_rows(dataset: ShardedDataset, split: str) -> list[dict[str, object]]:
    paths = [dataset.path(shard) for shard in dataset.split(split).shards]
    return pa.concat_tables([pq.ParquetFile(path).read() for path in paths]).to_pylist()


def write(path: Path, rows: list[dict[str, object]]) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_three_published_forms() -> None:
    assert parse_question(SFT) == Question("/a/0.png", (Turn("Which?", SFT["response"]),), "fear")
    assert parse_question(GRPO) == Question("/a/0.png", (Turn("Which?"),), "fear")
    assert parse_question(BENCH) == Question("/a/0.png", (Turn("Which?"),), "fear", ("fear", "joy"))
    assert parse_question({**GRPO, "solution": " fear "}).answer == "fear"


def test_conversations_keep_their_turns() -> None:
    turns = [{"question": "First?", "response": "joy"}, {"question": "Next?", "response": "fear"}]
    row = parse_question({"image_path": "x", "turns": turns})
    assert row.turns == (Turn("First?", "joy"), Turn("Next?", "fear"))
    assert row.columns()["followups"] == [{"prompt": "Next?", "response": "fear"}]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "not a JSON object"),
        ({**SFT, "question": "q \ud83d"}, "question has half a character"),
        ({**BENCH, "candidate_labels": ["fear", "\ud83d"]}, "candidate_labels has half a character"),
        ({**SFT, "image_path": ""}, "image_path is missing"),
        ({**SFT, "response": 3}, "response is missing, empty or not text"),
        ({"image_path": "x"}, "no question"),
        ({**BENCH, "candidate_labels": "fear"}, "not a list"),
        ({"image_path": "x", "turns": []}, "turns is not a list"),
        ({"image_path": "x", "turns": [{"question": "a"}]}, "response is missing"),
    ],
)
def test_bad_rows_have_a_reason(raw: object, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        parse_question(raw)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_json_is_a_row_or_a_bad_row(raw: object) -> None:
    with suppress(BadRow):
        assert isinstance(parse_question(raw), Question)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_arrays_and_lines_are_read_alike(tmp_path: Path, name: str) -> None:
    rows = list(read_questions(write(tmp_path / name, [SFT, GRPO, {"image_path": 1}, BENCH])))
    assert rows[0] == parse_question(SFT)
    assert isinstance(rows[2], BadRow)
    assert rows[3] == parse_question(BENCH)


def test_invalid_files_are_one_line_errors(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('[{"image_path": "x", "prom')
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "half.json").write_text(r'[{"image_path": "\udc00"}]')
    messages = {
        "cut.json": "not valid JSON",
        "half.json": "not valid JSON",
        "text.json": "neither",
        "none.json": "no such file",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            list(read_questions(str(tmp_path / name)))


def test_published_question_files(shared_data: Path) -> None:
    counts = {"rafdb": 3068, "ferplus": 3573, "affectnet": 4000, "sfew_2.0": 431}
    for name, count in counts.items():
        rows = list(read_questions(str(shared_data / f"ferbench/{name}_qa.json")))
        assert len(rows) == count
        assert all(isinstance(row, Question) and row.answer in row.candidate_labels for row in rows)


def test_ferplus_questions_find_their_images_in_the_zip(shared_data: Path) -> None:
    root = ImageRoot(str(shared_data / "ferplus/ferplus_test_images.zip"))
    for row in read_questions(str(shared_data / "ferbench/ferplus_qa.json")):
        assert isinstance(row, Question)
        assert root.find(row.path)


def test_images_are_found_by_path_then_by_name(images: Path) -> None:
    root = ImageRoot(str(images))
    assert root.find("/a/3.png") == root.find("images/a/3.png") == root.find("/elsewhere/3.png") == "a/3.png"
    (images / "b").mkdir()
    (images / "b/3.png").write_bytes(b"")
    with pytest.raises(BadRow, match="missing image"):
        ImageRoot(str(images)).find("/elsewhere/3.png")
    with pytest.raises(BadRow, match="missing image"):
        root.find("../../etc/passwd")


def rows_for(number: int) -> list[dict[str, object]]:
    return [{**SFT, "image_path": f"/a/{i}.png", "question": f"Which, {i}?"} for i in range(number)]


def options(tmp_path: Path, images: Path, rows: list[dict[str, object]], **overrides: object) -> PrepareOptions:
    data = write(tmp_path / "rows.jsonl", rows)
    settings = {
        "format": "vqa",
        "image_root": str(images),
        "out": str(tmp_path / "shards"),
        "val_split": 0.2,
    } | overrides
    return PrepareOptions(data=data, **settings)


def test_prepare_embeds_images_and_splits(tmp_path: Path, images: Path) -> None:
    dataset = prepare(options(tmp_path, images, rows_for(20)))
    assert {name: split.rows for name, split in dataset.manifest.splits.items()} == {"train": 16, "val": 4}
    assert dataset.manifest.kind == "questions"
    assert dataset.manifest.counts == {"fear": 20}
    rows = read_rows(dataset, "train") + read_rows(dataset, "val")
    assert {row["path"] for row in rows} == {f"/a/{i}.png" for i in range(20)}
    for row in rows:
        assert row["image"] == (images / str(row["path"]).lstrip("/")).read_bytes()
        assert row["prompt"] == f"Which, {Path(str(row['path'])).stem}?"


def test_preparing_again_does_nothing_and_other_rows_are_rejected(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(options(tmp_path, images, rows_for(20)))
    again = prepare(options(tmp_path, images, rows_for(20)))
    assert first.manifest.content_hash == again.manifest.content_hash
    with pytest.raises(UserError, match="other data or options"):
        prepare(options(tmp_path, images, rows_for(19)))


def test_images_by_reference(tmp_path: Path, images: Path) -> None:
    dataset = prepare(options(tmp_path, images, rows_for(20), embed_images=False))
    for row in read_rows(dataset, "train"):
        assert row["image"] is None
        assert Path(str(row["path"])).read_bytes()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for i in range(20):
            file.write(images / f"a/{i}.png", f"a/{i}.png")
    with pytest.raises(UserError, match="leave out --no-embed-images"):
        prepare(options(tmp_path, tmp_path / "images.zip", rows_for(20), embed_images=False, out=str(tmp_path / "b")))


def test_bad_rows_and_missing_images_are_rejected_and_counted(tmp_path: Path, images: Path) -> None:
    rows = [*rows_for(20), {**SFT, "image_path": "/a/99.png"}, {"image_path": "/a/1.png"}]
    with pytest.raises(UserError, match="max-bad-fraction"):
        prepare(options(tmp_path, images, rows))
    dataset = prepare(options(tmp_path, images, rows, max_bad_fraction=0.2))
    assert sorted(dataset.manifest.rejected.values()) == [1, 1]
    assert dataset.manifest.counts.total() == 20


def test_half_a_character_in_a_line_is_a_bad_row(tmp_path: Path, images: Path) -> None:
    rows = [*rows_for(20), {**SFT, "question": "q \ud83d"}]
    dataset = prepare(options(tmp_path, images, rows, max_bad_fraction=0.2))
    assert dataset.manifest.rejected == {"question has half a character (a lone surrogate)": 1}


def test_questions_about_one_image_share_a_split(tmp_path: Path, images: Path) -> None:
    rows = [{**SFT, "image_path": f"/a/{i % 10}.png", "question": f"Which, {i}?"} for i in range(20)]
    dataset = prepare(options(tmp_path, images, rows, val_split=0.3))
    train, val = ({row["path"] for row in read_rows(dataset, split)} for split in ("train", "val"))
    assert val
    assert not train & val


def test_faces_are_not_accepted_as_questions_or_vice_versa(tmp_path: Path, images: Path, small_shards: Path) -> None:
    dataset = prepare(options(tmp_path, images, rows_for(20)))
    from fer.data.options import DataOptions

    with pytest.raises(UserError, match="fer sft"):
        open_dataset(DataOptions(data=dataset.root), cache=str(tmp_path))
    with pytest.raises(UserError, match="fer questions"):
        open_questions(QuestionOptions(data=str(small_shards)), cache=str(tmp_path))
    with pytest.raises(UserError, match="neither shards of questions"):
        open_questions(QuestionOptions(data=str(images)), cache=str(tmp_path))


def test_a_file_of_questions_is_prepared_once(tmp_path: Path, images: Path) -> None:
    data = write(tmp_path / "rows.json", rows_for(20))
    options = QuestionOptions(data=data, image_root=str(images), val_split=0.2)
    first = open_questions(options, cache=str(tmp_path / "cache"))
    assert open_questions(options, cache=str(tmp_path / "cache")).root == first.root


def test_other_images_are_prepared_again(tmp_path: Path) -> None:
    import numpy as np

    def write_version(name: str, side: int) -> QuestionOptions:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "0.png").write_bytes(encode_png(np.zeros((side, side, 3), np.uint8)))
        data = write(tmp_path / name / "q.jsonl", [{**SFT, "image_path": "0.png"}])
        return QuestionOptions(data=data, val_split=0)

    def stored_image(options: QuestionOptions) -> object:
        (row,) = read_rows(open_questions(options, cache=str(tmp_path / "cache")), "train")
        return row["image"]

    for name, side in (("v1", 8), ("v2", 8), ("v2", 9)):  # the same questions; then an image replaced in place
        options = write_version(name, side)
        assert stored_image(options) == (tmp_path / name / "0.png").read_bytes()
    assert len(list((tmp_path / "cache").iterdir())) == 3
    (tmp_path / "v2/notes.txt").write_text("no image of a question")
    stored_image(options.model_copy(update={"max_bad_fraction": 0.5}))
    assert len(list((tmp_path / "cache").iterdir())) == 3
