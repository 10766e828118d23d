"""Answering many questions: every answer is on disk at once, and nothing is asked twice."""

from __future__ import annotations

import base64
import io
import shutil
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer.classifier.model import build_model, new_spec, save_model
from fer.classifier.options import ModelOptions as ClassifierOptions
from fer.data.images import encode_png
from fer.data.vqa.prompts import ferbench_prompt, first_turn
from fer.errors import UserError
from fer.ferbench.models import locate_model
from fer.ferbench.options import JudgedModel
from fer.inference.base import Ask, Sampling
from fer.inference.batch import Asker, Questioned, Setup, generate
from fer.inference.journal import Part, read_parts
from fer.labels import get_space
from fer.tracking import TrackingOptions

LABELS = get_space("rafdb").labels
GREEDY = Sampling(temperature=0, tokens=16)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of 40 pixels; one of them is broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        (folder / f"{i}.png").write_bytes(encode_png(pixels))
    (folder / "5.png").write_bytes(b"no image")
    return folder


def questions(count: int = 13, two_turns: bool = False) -> list[Questioned]:
    """The last of thirteen has no image."""
    prompt = first_turn(LABELS) if two_turns else ferbench_prompt(LABELS)
    return [Questioned(f"q:{i}", f"{i}.png", prompt, LABELS, two_turns) for i in range(count)]


def setup(images: Path, url: str, **options: Any) -> Setup:
    fixed: dict[str, Any] = {"kind": "endpoint", "model": "m", "image_size": 56, "sampling": GREEDY, "concurrency": 3}
    return Setup(**(fixed | options), image_root=str(images), endpoint=url, parts=str(images.parent / "parts"))


def test_answers_and_errors_are_all_there(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: " fear\n")
    chosen = setup(images, server.url)
    assert sum(generate(questions(), chosen, workers=0)) == 13
    found, usage = read_parts(Path(chosen.parts))
    assert set(found) == {f"q:{i}" for i in range(13)}
    assert found["q:5"]["error"] == "not an image that can be decoded"
    assert found["q:12"]["error"] == "missing image"
    assert all(found[f"q:{i}"]["responses"] == ["fear"] for i in range(12) if i != 5)
    assert (usage.answers, usage.prompt_tokens, usage.answer_tokens) == (11, 880, 55)
    assert usage.engine_seconds > 0
    assert sizes(server.requests) == {(56, 56)}


def test_images_may_be_left_as_they_are(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: "fear")
    assert sum(generate(questions(3), setup(images, server.url, image_size=0), workers=0)) == 3
    assert sizes(server.requests) == {(40, 40)}


def test_the_second_turn_names_the_first_answer(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    def script(request: dict[str, Any]) -> str:
        return "I see surprise." if len(request["messages"]) == 1 else "Happiness"

    server = chat_server(script)
    chosen = setup(images, server.url)
    assert sum(generate(questions(4, two_turns=True), chosen, workers=0)) == 4
    found, usage = read_parts(Path(chosen.parts))
    assert all(line["responses"] == ["I see surprise.", "Happiness"] for line in found.values())
    assert usage.answer_tokens == 4 * 2 * 5
    last = next(request for request in server.requests if len(request["messages"]) == 3)
    assert "strongest expression in this face is surprise" in last["messages"][2]["content"][0]["text"]


def test_a_first_answer_without_a_label_has_no_second_turn(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: "Hard to say")
    chosen = setup(images, server.url)
    assert sum(generate(questions(2, two_turns=True), chosen, workers=0)) == 2
    assert len(server.requests) == 2
    assert read_parts(Path(chosen.parts))[0]["q:0"]["responses"] == ["Hard to say"]


def test_half_a_line_is_as_good_as_none(tmp_path: Path) -> None:
    part = Part(tmp_path, "here")
    part.answer("q:1", ["fear"], 3, 1)
    part.error("q:2", "missing image")
    part.close()
    [file] = tmp_path.iterdir()
    with file.open("a") as stream:
        stream.write('{"key": "q:3", "responses": ["an')
    later = Part(tmp_path, "here")
    later.answer("q:2", ["anger"], 3, 1)
    later.answer("q:1", ["anger"], 3, 1)
    later.close()
    found, usage = read_parts(tmp_path)
    assert {key: line["responses"] for key, line in found.items()} == {"q:1": ["fear"], "q:2": ["anger"]}
    assert usage.answers == 3


def sizes(requests: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Sizes of the images that requests carry."""
    urls = [request["messages"][0]["content"][0]["image_url"]["url"] for request in requests]
    return {Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls}


def test_an_adapter_is_merged_once(merged_model: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(merged_model.parent / "adapter", tmp_path / "run/model")
    model = JudgedModel(model=str(tmp_path / "run"))
    kind, place = locate_model(model, TrackingOptions())
    assert (kind, Path(place)) == ("vllm", adapter.parent / "merged")
    made = (adapter.parent / "merged/config.json").stat()
    assert locate_model(model, TrackingOptions()) == (kind, place)
    assert (adapter.parent / "merged/config.json").stat() == made


def test_kinds_of_models(tiny_models: Path, tmp_path: Path) -> None:
    there = TrackingOptions(out_dir=str(tmp_path))
    assert locate_model(JudgedModel(model="gpt", endpoint="http://x"), there) == ("endpoint", "gpt")
    assert locate_model(JudgedModel(model=str(tiny_models / "smolvlm")), there)[0] == "vllm"
    assert locate_model(JudgedModel(model="tiny:smolvlm"), there) == ("vllm", str(tmp_path / "tiny/smolvlm"))
    spec = new_spec(ClassifierOptions(backbone="test_resnet", img_size=32), get_space("fer2013"))
    save_model(build_model(spec), spec, tmp_path / "first/model")
    assert locate_model(JudgedModel(model="first"), there) == ("classifier", str(tmp_path / "first/model"))
    with pytest.raises(UserError, match="nowhere"):
        locate_model(JudgedModel(model="nowhere"), there)


@pytest.mark.slow
@pytest.mark.vllm
def test_an_engine_answers_a_batch_with_follow_ups_as_it_does_one_by_one(merged_engine, images: Path) -> None:  # type: ignore[no-untyped-def]
    image = (images / "0.png").read_bytes()
    alone = [merged_engine([Ask(image, prompt)], GREEDY)[0] for prompt in ("Which expression?", "And now?")]
    pending = deque([(0, Ask(image, "Which expression?")), (1, Ask(image, "And now?"))])
    together: dict[int, str] = {}
    for number, answer in merged_engine.stream(pending, GREEDY):
        together[number] = answer.text
        assert answer.prompt_tokens > 4
        assert 1 <= answer.answer_tokens <= 16
        if number < 2:
            before = (("Which expression?", answer.text),)
            pending.append((number + 2, Ask(image, "The next strongest?", before=before)))
    assert [together[0], together[1]] == alone
    assert set(together) == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.vllm
def test_an_engine_can_be_held_to_the_candidate_labels(merged_engine, images: Path) -> None:  # type: ignore[no-untyped-def]
    asks = [Ask((images / f"{i}.png").read_bytes(), ferbench_prompt(LABELS), labels=LABELS) for i in range(3)]
    assert set(merged_engine(asks, Sampling(0, 16, guided=True))) <= set(LABELS)
    assert not set(merged_engine(asks, GREEDY)) & set(LABELS)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_prompt_that_is_too_long_is_a_fault_of_its_question(merged_engine, images: Path) -> None:  # type: ignore[no-untyped-def]
    image = (images / "0.png").read_bytes()
    pending = deque([(0, Ask(image, "word " * 5000)), (1, Ask(image, "Which expression?"))])
    answers = dict(merged_engine.stream(pending, GREEDY))
    assert answers[0].fault
    assert answers[1].text


@pytest.mark.slow
@pytest.mark.vllm
def test_questions_go_through_an_engine_to_disk(merged_engine, images: Path) -> None:  # type: ignore[no-untyped-def]
    chosen = setup(images, "", kind="vllm")
    asker = Asker(chosen)
    asker.engine = merged_engine, Part(Path(chosen.parts), "here")
    assert sum(asker.ask(questions())) == 13
    found, usage = read_parts(Path(chosen.parts))
    assert sorted(key for key, line in found.items() if "error" in line) == ["q:12", "q:5"]
    assert usage.answer_tokens > 0
