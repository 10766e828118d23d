"""Batch inference: every response is journalled at once, and no request is repeated."""

from __future__ import annotations

import base64
import io
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer.data.images import encode_png
from fer.data.vqa.prompts import ferbench_prompt, first_turn_prompt
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.ferbench.models import resolve_kind
from fer.ferbench.options import BenchmarkModel
from fer.inference.base import InferenceClient, Request, Response, SamplingParams
from fer.inference.batch import BatchItem, BatchWorker, InferenceConfig, run_batch
from fer.inference.journal import JournalWriter, read_journal
from fer.labels import get_space
from fer.storage import upload_folder
from fer.tracking import TrackingOptions
from tests.fixtures.object_store import BUCKET, ObjectStore

LABELS = get_space("rafdb").labels
GREEDY = SamplingParams(temperature=0, max_new_tokens=16)


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


def items(count: int = 13, two_turns: bool = False) -> list[BatchItem]:
    """Of thirteen items, the last has no image file."""
    prompt = first_turn_prompt(LABELS) if two_turns else ferbench_prompt(LABELS)
    return [BatchItem(f"q:{i}", f"{i}.png", prompt, LABELS, two_turns) for i in range(count)]


def inference_config(images: Path, url: str, **options: Any) -> InferenceConfig:
    fixed: dict[str, Any] = {"kind": "endpoint", "model": "m", "image_size": 56, "sampling": GREEDY, "concurrency": 3}
    return InferenceConfig(
        **(fixed | options),
        image_root=str(images),
        endpoint=url,
        journal=str(images.parent / "journal"),
        tracking=TrackingOptions(),
    )


@pytest.mark.parametrize(
    ("kind", "image_size", "decodes"),
    [("classifier", 56, 0), ("vllm", 0, 0), ("vllm", 56, 1), ("endpoint", 0, 1), ("endpoint", 56, 1)],
)
def test_an_image_is_decoded_at_most_once_before_the_client(
    images: Path, kind: str, image_size: int, decodes: int, count_decodes: Callable[[], int]
) -> None:
    """The classifier's and vLLM's clients decode the image that they are given."""
    worker = BatchWorker(inference_config(images, "", kind=kind, image_size=image_size))
    assert isinstance(worker._load(items()[0]), bytes)
    assert count_decodes() == decodes


class FullBatches(InferenceClient):
    """Responds to all requests that it runs at the same time, like an engine whose responses are equally long."""

    max_running = 4

    def __init__(self) -> None:
        self.batches: list[int] = []

    def stream(self, pending: deque[tuple[int, Request]], sampling: SamplingParams) -> Iterator[tuple[int, Response]]:
        while pending:
            batch = [pending.popleft() for _ in range(min(len(pending), self.max_running))]
            self.batches.append(len(batch))
            yield from ((number, Response("fear")) for number, _ in batch)


def test_a_model_always_has_as_many_requests_as_it_runs_at_a_time(images: Path) -> None:
    config = inference_config(images, "")
    worker, client = BatchWorker(config), FullBatches()
    worker.opened = client, JournalWriter(config.journal, "cpu")
    assert sum(worker.process(items())) == 13
    assert client.batches == [4, 4, 3]  # eleven have an image


def test_responses_and_errors_are_all_journalled(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: " fear\n")
    config = inference_config(images, server.url)
    assert sum(run_batch(items(), config, workers=0)) == 13
    entries, usage = read_journal(Path(config.journal))
    assert set(entries) == {f"q:{i}" for i in range(13)}
    assert entries["q:5"]["error"] == "not an image of a supported format"
    assert entries["q:12"]["error"] == "missing image"
    assert all(entries[f"q:{i}"]["responses"] == ["fear"] for i in range(12) if i != 5)
    assert (usage.responses, usage.prompt_tokens, usage.completion_tokens) == (11, 880, 55)
    assert usage.engine_seconds > 0
    assert sizes(server.requests) == {(56, 56)}


def test_image_size_zero_keeps_the_images(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: "fear")
    assert sum(run_batch(items(3), inference_config(images, server.url, image_size=0), workers=0)) == 3
    assert sizes(server.requests) == {(40, 40)}


def test_the_second_turn_names_the_first_response(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    def script(request: dict[str, Any]) -> str:
        return "I see surprise." if len(request["messages"]) == 1 else "Happiness"

    server = chat_server(script)
    config = inference_config(images, server.url)
    assert sum(run_batch(items(4, two_turns=True), config, workers=0)) == 4
    entries, usage = read_journal(Path(config.journal))
    assert all(line["responses"] == ["I see surprise.", "Happiness"] for line in entries.values())
    assert usage.completion_tokens == 4 * 2 * 5
    last = next(request for request in server.requests if len(request["messages"]) == 3)
    assert "strongest expression in this face is surprise" in last["messages"][2]["content"][0]["text"]


def test_a_first_response_without_a_label_has_no_second_turn(images: Path, chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: "Hard to say")
    config = inference_config(images, server.url)
    assert sum(run_batch(items(2, two_turns=True), config, workers=0)) == 2
    assert len(server.requests) == 2
    assert read_journal(Path(config.journal))[0]["q:0"]["responses"] == ["Hard to say"]


def test_incomplete_lines_are_ignored_and_responses_win_over_errors(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path), "cpu")
    writer.write_responses("q:1", ["fear"], 3, 1)
    writer.write_error("q:2", "missing image")
    writer.close()
    [file] = tmp_path.iterdir()
    with file.open("a") as stream:
        stream.write('{"key": "q:3", "responses": ["an')
    later = JournalWriter(str(tmp_path), "cpu")
    later.write_responses("q:2", ["anger"], 3, 1)
    later.write_responses("q:1", ["anger"], 3, 1)
    later.close()
    entries, usage = read_journal(tmp_path)
    assert {key: line["responses"] for key, line in entries.items()} == {"q:1": ["fear"], "q:2": ["anger"]}
    assert usage.responses == 3


def sizes(requests: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Sizes of the images in the requests."""
    urls = [request["messages"][0]["content"][0]["image_url"]["url"] for request in requests]
    return {Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls}


def test_an_adapter_is_merged_once(merged_model: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(merged_model.parent / "adapter", tmp_path / "run/model")
    model = BenchmarkModel(model=str(tmp_path / "run"))
    kind, path = resolve_kind(model, TrackingOptions())
    assert (kind, Path(path)) == ("vllm", adapter.parent / "merged")
    made = (adapter.parent / "merged/config.json").stat()
    assert resolve_kind(model, TrackingOptions()) == (kind, path)
    assert (adapter.parent / "merged/config.json").stat() == made


def test_kinds_of_models(
    tiny_models: Path, make_classifier: Callable[..., Path], tmp_path: Path, s3: ObjectStore
) -> None:
    tracking = TrackingOptions(storage=str(tmp_path))
    assert resolve_kind(BenchmarkModel(model="gpt", endpoint="http://x"), tracking) == ("endpoint", "gpt")
    assert resolve_kind(BenchmarkModel(model=str(tiny_models / "smolvlm")), tracking)[0] == "vllm"
    assert resolve_kind(BenchmarkModel(model="tiny:smolvlm"), tracking) == ("vllm", str(tmp_path / "tiny/smolvlm"))
    make_classifier(tmp_path / "first/model")
    assert resolve_kind(BenchmarkModel(model="first"), tracking) == ("classifier", str(tmp_path / "first/model"))
    upload_folder(tmp_path / "first", f"s3://{BUCKET}/first")
    assert resolve_kind(BenchmarkModel(model=f"s3://{BUCKET}/first"), tracking)[0] == "classifier"
    for nowhere in ("nowhere", f"s3://{BUCKET}/nowhere"):
        with pytest.raises(UserError, match="nowhere"):
            resolve_kind(BenchmarkModel(model=nowhere), tracking)


@pytest.mark.slow
@pytest.mark.vllm
def test_batched_vllm_responses_with_follow_ups_equal_single_ones(vllm_client, images: Path) -> None:  # type: ignore[no-untyped-def]
    image = (images / "0.png").read_bytes()
    alone = [vllm_client([Request(image, prompt)], GREEDY)[0] for prompt in ("Which expression?", "And now?")]
    pending = deque([(0, Request(image, "Which expression?")), (1, Request(image, "And now?"))])
    batched: dict[int, str] = {}
    for number, response in vllm_client.stream(pending, GREEDY):
        batched[number] = response.text
        assert response.prompt_tokens > 4
        assert 1 <= response.completion_tokens <= 16
        if number < 2:
            history = (Turn("Which expression?", response.text),)
            pending.append((number + 2, Request(image, "The next strongest?", history)))
    assert [batched[0], batched[1]] == alone
    assert set(batched) == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.vllm
def test_guided_decoding_allows_the_candidate_labels_only(vllm_client, images: Path) -> None:  # type: ignore[no-untyped-def]
    requests = [Request((images / f"{i}.png").read_bytes(), ferbench_prompt(LABELS), labels=LABELS) for i in range(3)]
    assert set(vllm_client(requests, SamplingParams(0, 16, guided=True))) <= set(LABELS)
    assert not set(vllm_client(requests, GREEDY)) & set(LABELS)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_prompt_that_is_too_long_yields_an_error_response(vllm_client, images: Path) -> None:  # type: ignore[no-untyped-def]
    image = (images / "0.png").read_bytes()
    pending = deque([(0, Request(image, "word " * 5000)), (1, Request(image, "Which expression?"))])
    responses = dict(vllm_client.stream(pending, GREEDY))
    assert responses[0].error
    assert responses[1].text


@pytest.mark.slow
@pytest.mark.vllm
def test_items_go_through_vllm_into_the_journal(vllm_client, images: Path) -> None:  # type: ignore[no-untyped-def]
    config = inference_config(images, "", kind="vllm")
    worker = BatchWorker(config)
    worker.opened = vllm_client, JournalWriter(config.journal, "cpu")
    assert sum(worker.process(items())) == 13
    entries, usage = read_journal(Path(config.journal))
    assert sorted(key for key, line in entries.items() if "error" in line) == ["q:12", "q:5"]
    assert usage.completion_tokens > 0
