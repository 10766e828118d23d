from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer.answers import is_correct, well_formed
from fer.data.schema import FaceRow
from fer.data.vqa.build import BUILDERS, compound_parts, load_faces
from fer.data.vqa.options import QuestionsConfig
from fer.data.vqa.prompts import ferbench_prompt, template_response
from fer.data.vqa.questions import parse_question
from fer.errors import UserError
from fer.labels import EMOTIONS, get_space
from jobs import questions as job

FACE = FaceRow("a/0.png", "fear", read=bytes)


def test_the_prompt_equals_the_published_one(shared_data: Path) -> None:
    spaces = {"rafdb": "rafdb", "ferplus": "ferplus", "affectnet": "affectnet", "sfew_2.0": "sfew"}
    for name, space in spaces.items():
        for row in json.loads((shared_data / f"ferbench/{name}_qa.json").read_text()):
            assert row["prompt"] == ferbench_prompt(row["candidate_labels"])
            assert tuple(row["candidate_labels"]) == get_space(space).labels


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_kind_of_row_can_be_parsed(kind: str) -> None:
    row = parse_question(BUILDERS[kind](FACE, get_space("rafdb")))
    assert row.path == "a/0.png"
    if kind != "chain-of-affect":
        assert row.answer == "fear"
    assert row.candidate_labels == get_space("rafdb").labels


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_template_responses_are_well_formed_and_correct(emotion: str) -> None:
    responses = {template_response(emotion, key) for key in range(64)}
    assert len(responses) > 2
    assert all(well_formed(response) and is_correct(response, emotion) for response in responses)


def test_the_second_turn_of_chain_of_affect_excludes_the_first_label() -> None:
    row = parse_question(
        BUILDERS["chain-of-affect"](FaceRow("x", "happily surprised", bytes), get_space("rafdb-compound"))
    )
    first, second = row.turns
    assert (first.response, second.response) == ("surprise", "happiness")
    assert "surprise" in first.prompt
    assert "strongest expression in this face is surprise" in second.prompt
    assert "surprise" not in second.prompt.split("next strongest")[1]
    assert row.answer == "happily surprised"


def test_compound_labels_name_two_basic_ones() -> None:
    basic = set(get_space("rafdb").labels)
    for label in get_space("rafdb-compound").labels:
        assert set(compound_parts(label)) <= basic
        assert len(set(compound_parts(label))) == 2


def test_the_compound_labels_of_rafdb_are_read(tmp_path: Path) -> None:
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel/list_patition_label.txt").write_text("train_0001.jpg 1\ntest_0002.jpg 11\n")
    (tmp_path / "train_0001.jpg").write_bytes(b"an image")
    config = QuestionsConfig(
        data=str(tmp_path), format="rafdb-compound", kind="chain-of-affect", split="all", val_split=0, out="x.jsonl"
    )
    _, rows = load_faces(config)
    assert {row.label for row in rows} == {"happily surprised", "disgustedly surprised"}


def test_the_job_writes_the_selected_split(face_folder: Path, tmp_path: Path) -> None:
    def build(split: str) -> list[str]:
        out = tmp_path / f"{split}.jsonl"
        job.main(QuestionsConfig(data=str(face_folder), out=str(out), split=split, val_split=0.25, kind="ferbench"))
        return [json.loads(line)["image_path"] for line in out.read_text().splitlines()]

    train, val = build("train"), build("val")
    assert (len(train), len(val)) == (84, 28)
    assert not set(train) & set(val)
    with pytest.raises(UserError, match="no rows in its test split"):
        build("test")


def test_a_limited_sample_has_every_label(face_folder: Path) -> None:
    config = QuestionsConfig(data=str(face_folder), out="x.jsonl", split="all", val_split=0, limit=70)
    _, rows = load_faces(config)
    assert len({row.label for row in rows}) == 7


def build(data: Path, **options: object) -> list[str]:
    """The images that the questions of a data set name; the questions are written into a new folder."""
    config = {"data": str(data), "out": f"{data}-questions/all.jsonl", "split": "all", "val_split": 0} | options
    job.main(QuestionsConfig.model_validate(config))
    return [json.loads(line)["image_path"] for line in Path(config["out"]).read_text().splitlines()]


def test_images_that_are_no_files_can_not_be_named(tmp_path: Path) -> None:
    pixels = " ".join(["0"] * 48 * 48)
    (tmp_path / "fer2013").mkdir()
    (tmp_path / "fer2013/fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{pixels},Training\n")
    (tmp_path / "mix.yaml").write_text("label_space: basic\nsources: [{data: fer2013}]\n")
    for data in ("fer2013", "fer2013/fer2013.csv", "mix.yaml"):
        with pytest.raises(UserError, match="no image files that a question could name"):
            build(tmp_path / data)


def test_faces_that_are_cut_out_of_photographs_can_not_be_named(tmp_path: Path) -> None:
    (tmp_path / "data/1").mkdir(parents=True)
    (tmp_path / "data/1/a.jpg").write_bytes(b"a photograph")
    (tmp_path / "data/training.csv").write_text("1/a.jpg,0,0,24,24,1;2,1,0.5,0.5\n")
    with pytest.raises(UserError, match="would name the whole photograph"):
        build(tmp_path / "data")


def test_too_many_bad_rows_are_an_error(tmp_path: Path) -> None:
    data = tmp_path / "rafdb"
    data.mkdir()
    lines = [f"train_{i}.jpg {9 if i == 0 else 1}\n" for i in range(10)]
    (data / "list_patition_label.txt").write_text("".join(lines))
    for i in range(10):
        (data / f"train_{i}.jpg").write_bytes(b"an image")
    with pytest.raises(UserError, match=r"1 of 10 rows are bad .*all\.jsonl\.rejected\.jsonl lists them"):
        build(data)
    assert len(build(data, max_bad_fraction=0.1)) == 9
