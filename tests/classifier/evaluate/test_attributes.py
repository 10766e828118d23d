"""Attributes of rows from a CSV file, found by the path or its end."""

from pathlib import Path

import pytest

from fer.classifier.evaluate.attributes import read_attributes
from fer.classifier.evaluate.options import EvaluateConfig
from fer.errors import UserError


def write(folder: Path, text: str) -> str:
    (folder / "people.csv").write_text(text)
    return str(folder / "people.csv")


def test_a_row_is_found_by_its_path_or_the_end_of_it(tmp_path: Path) -> None:
    file = write(tmp_path, "age,path,skin\n7,test/1.jpg,\n70,train/1.jpg,dark\n,2.jpg,light\n")
    attributes = read_attributes(file, ["skin", "age"])
    assert attributes.of("test/1.jpg") == (None, "7")
    assert attributes.of("data/faces/train/1.jpg") == ("dark", "70")
    assert attributes.of("test/2.jpg") == ("light", None)
    assert attributes.of("1.jpg") == attributes.of("test/12.jpg") == (None, None)
    assert attributes.found == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,gender\na,b\n", "with the columns path, age"),
        ("file,age\na,b\n", "with the columns path, age"),
        ("path,age\na,1\nb,2\na,1\n", "'a' is in it twice"),
        ("", "not a CSV file"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_attributes(write(tmp_path, text), ["age"])


def test_a_file_about_other_images_is_an_error(tmp_path: Path) -> None:
    attributes = read_attributes(write(tmp_path, "path,age\na.jpg,1\n"), ["age"])
    attributes.of("b.jpg")
    with pytest.raises(UserError, match=r"for example a\.jpg, and the rows b\.jpg"):
        attributes.check_found("b.jpg")
    with pytest.raises(UserError, match="no such file"):
        read_attributes(str(tmp_path / "none.csv"), ["age"])


def test_groups_need_metadata() -> None:
    with pytest.raises(ValueError, match="give both or neither"):
        EvaluateConfig(model="m", data="d", groups=["age"])
