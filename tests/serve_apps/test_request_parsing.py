"""Request parsing, without a server."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import Callable

import pytest
from fastapi import HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.classifier.deepface import to_deepface
from serve_apps.options import DynamicsServeConfig, LimitOptions
from serve_apps.request_parsing import parse_analyze, parse_dynamics, parse_predict
from serve_apps.schema import Box, FacePrediction, ImageFaces

LIMITS = LimitOptions(max_request_bytes=4000, max_image_bytes=1000, max_images=2)
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=cut"}


def request(body: bytes, headers: dict[str, str], chunk: int = 100, query: bytes = b"") -> Request:
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw, "path": "/", "query_string": query}, receive)


def form(*parts: tuple[str, bytes]) -> bytes:
    head = '--cut\r\nContent-Disposition: form-data; name="{}"; filename="a.jpg"\r\n\r\n'
    return b"".join(head.format(name).encode() + data + b"\r\n" for name, data in parts) + b"--cut--\r\n"


def encoded(*images: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()


def rejection(parse: Callable, body: bytes, headers: dict[str, str], limits: LimitOptions = LIMITS) -> HTTPException:
    with pytest.raises(HTTPException) as caught:
        asyncio.run(parse(request(body, headers), limits))
    assert caught.value.detail
    return caught.value


def test_images_come_from_a_form_from_base64_and_from_data_uris() -> None:
    two = [b"one", b"two"]
    assert asyncio.run(parse_predict(request(form(("files", b"one"), ("files", b"two")), FORM), LIMITS)).images == two
    assert asyncio.run(parse_predict(request(encoded(*two), JSON), LIMITS)).images == two
    uri = b'{"images": ["data:image/png;base64,b25l"]}'
    assert asyncio.run(parse_predict(request(uri, JSON), LIMITS)).images == [b"one"]


def test_an_image_may_be_the_body() -> None:
    jpeg = {"content-type": "image/jpeg"}
    assert asyncio.run(parse_predict(request(b"one", jpeg), LIMITS)).images == [b"one"]
    assert rejection(parse_analyze, b"one", jpeg).status_code == 415


def test_the_model_is_named_in_the_address_or_in_the_body() -> None:
    field = b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\nface@3\r\n'
    image = base64.b64encode(b"one").decode()
    jpeg = {"content-type": "image/jpeg"}
    for sent in (
        parse_predict(request(b"one", jpeg, query=b"model=face@3"), LIMITS),
        parse_predict(request(field + form(("files", b"one")), FORM), LIMITS),
        parse_predict(request(json.dumps({"images": [image], "model": "face@3"}).encode(), JSON), LIMITS),
        parse_analyze(request(field + form(("img", b"one")), FORM), LIMITS),
        parse_analyze(request(json.dumps({"img": image, "model": "face@3"}).encode(), JSON), LIMITS),
        parse_analyze(
            request(json.dumps({"img": image, "model": "b"}).encode(), JSON, query=b"model=face%403"), LIMITS
        ),
    ):
        assert asyncio.run(sent) == ([b"one"], "face@3")
    assert asyncio.run(parse_predict(request(b"one", jpeg), LIMITS)).model is None


@pytest.mark.parametrize(("headers", "parse"), [(JSON, parse_predict), (FORM, parse_predict), (JSON, parse_analyze)])
def test_a_body_that_does_not_arrive_in_time_is_rejected(headers: dict[str, str], parse: Callable) -> None:
    async def receive() -> dict[str, object]:
        await asyncio.sleep(10)
        raise AssertionError

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    slow = Request({"type": "http", "method": "POST", "headers": raw, "path": "/", "query_string": b""}, receive)
    with pytest.raises(HTTPException, match="s to arrive") as caught:
        asyncio.run(parse(slow, LIMITS.model_copy(update={"max_upload_seconds": 0.05})))
    assert caught.value.status_code == 408


def test_analyze_accepts_deepface_requests() -> None:
    body = b'{"img": "data:image/jpeg;base64,b25l", "actions": ["emotion"], "detector_backend": "opencv"}'
    assert asyncio.run(parse_analyze(request(body, JSON), LIMITS)).images == [b"one"]
    assert asyncio.run(parse_analyze(request(form(("img", b"one")), FORM), LIMITS)).images == [b"one"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 415),
        (b"\xff\xd8", {"content-type": "video/mp4"}, 415),
        (b"x" * 1001, {"content-type": "image/jpeg"}, 413),
        (b"", JSON, 400),
        (b'{"images": ', JSON, 400),
        (b"[" * 3000, JSON, 400),
        (b"[]", JSON, 422),
        (b"{}", JSON, 422),
        (b'{"images": []}', JSON, 422),
        (b'{"images": [3]}', JSON, 422),
        (b'{"images": ["not base64!"]}', JSON, 422),
        (b'{"images": ["data:text/plain,hello"]}', JSON, 422),
        ('{"images": ["é"]}'.encode(), JSON, 422),
        (encoded(b"1", b"2", b"3"), JSON, 413),
        (encoded(b"x" * 1001), JSON, 413),
        (b"x" * 4001, JSON, 413),
        (form(), FORM, 422),
        (form(("files", b"1"), ("files", b"2"), ("files", b"3")), FORM, 413),
        (form(("files", b"x" * 1001)), FORM, 413),
        (form(("files", b"x" * 4000)), FORM, 413),
        (b"no boundary here", FORM, 400),
        (form(("files", b"1")), {"content-type": FORM["content-type"] + "; charset=undefined"}, 400),
        (b"", {"content-type": "multipart/form-data"}, 400),
    ],
)
def test_bad_requests_are_rejected_with_a_reason(body: bytes, headers: dict[str, str], status: int) -> None:
    assert rejection(parse_predict, body, headers).status_code == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"img_path": "/etc/hostname"}', 400),
        (b'{"img": "https://example.org/face.jpg"}', 400),
        (b'{"img": "/home/someone/face.jpg"}', 422),
        (b"{}", 422),
        (b'{"img": ""}', 422),
    ],
)
def test_analyze_opens_no_paths_and_no_urls(body: bytes, status: int) -> None:
    assert rejection(parse_analyze, body, JSON).status_code == status


def test_analyze_accepts_one_image_only() -> None:
    assert rejection(parse_analyze, form(("img", b"1"), ("img", b"2")), FORM).status_code == 422


def test_a_content_length_over_the_limit_is_rejected_before_the_body_is_read() -> None:
    async def receive() -> dict[str, object]:
        raise AssertionError("the body was read")

    headers = [(b"content-type", b"application/json"), (b"content-length", b"4001")]
    large = Request({"type": "http", "method": "POST", "headers": headers, "path": "/", "query_string": b""}, receive)
    with pytest.raises(HTTPException) as caught:
        asyncio.run(parse_predict(large, LIMITS))
    assert caught.value.status_code == 413


def test_uploads_never_touch_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def rollover(self: object) -> None:
        raise AssertionError("an image was written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    limits = LimitOptions()
    image = b"x" * (3 * 2**20)
    assert asyncio.run(parse_predict(request(form(("files", image)), FORM, 2**16), limits)).images == [image]


@given(st.binary(max_size=300), st.sampled_from([JSON, FORM]))
def test_any_other_bytes_are_rejected_with_a_4xx_status(body: bytes, headers: dict[str, str]) -> None:
    for parse in (parse_predict, parse_analyze):
        assert 400 <= rejection(parse, body, headers).status_code < 500


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=2), st.integers(1, 500))
def test_images_arrive_intact_whatever_the_chunk_size(images: list[bytes], chunk: int) -> None:
    safe = [image.replace(b"--cut", b"") or b"x" for image in images]
    body = form(*(("files", image) for image in safe))
    assert asyncio.run(parse_predict(request(body, FORM, chunk), LIMITS)).images == safe


def test_deepface_names_and_percentages() -> None:
    scores = {"anger": 0.25, "happiness": 0.5, "contempt": 0.125, "own label": 0.125}
    box = Box(x=1, y=2, w=3, h=4)
    face = FacePrediction(
        box=box, detection_confidence=None, whole_image=True, label="happiness", confidence=0.5, scores=scores,
        valence=None, arousal=None, uncertain=False,
    )  # fmt: skip
    result = to_deepface(ImageFaces(faces=[face])).results[0]
    assert result.emotion == {"angry": 25, "happy": 50, "contempt": 12.5, "own label": 12.5}
    assert (result.dominant_emotion, result.region, result.face_confidence) == ("happy", box, 0)


def test_options_import_neither_torch_nor_ray() -> None:
    import subprocess

    code = "import sys, jobs.serve, jobs.promote; print({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_videos_are_accepted_only_with_a_landmarker() -> None:
    frames_only, videos_too = (DynamicsServeConfig(model="m", landmarker=file) for file in (None, "face.task"))
    video = form(("video", b"film"))
    assert asyncio.run(parse_dynamics(request(video, FORM), videos_too)) == b"film"
    assert "started without --landmarker" in rejection(parse_dynamics, video, FORM, frames_only).detail
    assert rejection(parse_dynamics, form(("a", b"1"), ("b", b"2")), FORM, videos_too).status_code == 422
