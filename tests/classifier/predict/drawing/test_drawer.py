"""Drawing files as they are predicted: names, what is left out, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fer.classifier.predict.drawing.drawer import Drawer, output_files
from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.pipeline import FilePredictor, predict_files
from fer.classifier.predict.reader import find_files
from fer.errors import UserError

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def model(make_classifier: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("model"), "basic")


def draw(paths: list[str], model: Path, out: Path, **options: object) -> list[str]:
    """Predict and draw; the names of the files that were made."""
    config = PredictConfig.model_validate(
        {"model": str(model), "paths": ["x"], "device": "cpu", "draw": str(out), "detector": "none", **options}
    )
    predictor = FilePredictor([model], config, Path.cwd())
    files = find_files(paths)
    drawer = Drawer(predictor, files, out)
    for rows in predict_files(predictor, files):
        drawer.draw(rows)
    drawer.finish()
    return sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())


def test_a_folder_becomes_a_folder_of_pictures_and_a_contact_sheet(model: Path, images: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    made = draw([str(images)], model, tmp_path / "out")
    assert made == ["a.jpg", "b.jpg", "c.jpg", "contact-sheet-1.jpg", "sub/d.jpg"]  # without the two broken ones
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before


def test_a_single_image_has_no_contact_sheet(model: Path, images: Path, tmp_path: Path) -> None:
    assert draw([str(images / "a.png")], model, tmp_path / "out") == ["a.jpg"]


def test_no_face_is_drawn_as_such(model: Path, images: Path, tmp_path: Path) -> None:
    draw([str(images / "a.png")], model, tmp_path / "with")
    draw([str(images / "a.png")], model, tmp_path / "without", detector="haar")
    with_face, without = (Image.open(tmp_path / name / "a.jpg") for name in ("with", "without"))
    assert without.width * without.height < with_face.width * with_face.height


def test_an_explained_face_has_a_heat_map(model: Path, images: Path, tmp_path: Path) -> None:
    areas = []
    for explain in (False, True):
        draw([str(images / "a.png")], model, tmp_path / str(explain), explain=explain)
        width, height = Image.open(tmp_path / str(explain) / "a.jpg").size
        areas.append(width * height)
    assert areas[1] > areas[0]


def test_an_image_and_a_video(model: Path, images: Path, video: Path, tmp_path: Path) -> None:
    assert draw([str(images / "a.png"), str(video)], model, tmp_path / "out") == ["images/a.jpg", "noise.mp4"]
    drawn = cv2.VideoCapture(str(tmp_path / "out/noise.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 12


def test_a_broken_video_is_left_out(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    assert draw([str(tmp_path / "broken.mp4")], model, tmp_path / "out") == []


def test_videos_are_not_explained(model: Path, images: Path, video: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--explain works on images only: leave .*noise.mp4 out"):
        draw([str(images), str(video)], model, tmp_path / "out", explain=True)


def test_explaining_needs_labels(make_classifier: Make, images: Path, tmp_path: Path) -> None:
    affect_only = make_classifier(tmp_path / "va", "basic", head="valence-arousal")
    with pytest.raises(UserError, match="--explain needs a model with an expression head"):
        draw([str(images)], affect_only, tmp_path / "out", explain=True)
    assert draw([str(images / "a.png")], affect_only, tmp_path / "out") == ["a.jpg"]


@pytest.mark.parametrize("out", ["images", "images/sub", "images/../images"])
def test_inputs_are_not_overwritten(model: Path, images: Path, out: str) -> None:
    with pytest.raises(UserError, match="an input; choose another folder"):
        draw([str(images)], model, images.parent / out)


def test_a_folder_that_cannot_be_written_to(model: Path, images: Path) -> None:
    with pytest.raises(UserError, match="--draw"):
        draw([str(images / "a.png")], model, images / "notes.txt" / "out")


names = st.sampled_from(["a.jpg", "a.png", "A.JPG", "a-2.jpg", "contact-sheet-1.png", "b.mp4", "b.mov", "b.jpg"])
folders = st.sampled_from(["", "one", "two", "one/deep", "../outside"])


@given(st.sets(st.tuples(folders, names), min_size=1))
def test_every_input_has_a_file_of_its_own(inputs: set[tuple[str, str]]) -> None:
    paths = [str(Path(folder, name)) for folder, name in sorted(inputs)]
    files = output_files(paths, Path("out"))
    assert list(files) == paths
    drawn = [str(file).lower() for file in files.values()]
    assert len(set(drawn)) == len(paths)
    assert not {"out/contact-sheet-1.jpg"} & set(drawn)
    assert all(file.suffix == (".mp4" if ".m" in path else ".jpg") for path, file in files.items())
    assert all(".." not in file.parts and file.parts[0] == "out" for file in files.values())


def test_inputs_of_the_same_name_keep_their_folders() -> None:
    files = output_files(["x/one/a.png", "x/two/a.png", "x/a.jpg", "x/a.png"], Path("out"))
    assert [str(file) for file in files.values()] == ["out/one/a.jpg", "out/two/a.jpg", "out/a.jpg", "out/a-2.jpg"]
