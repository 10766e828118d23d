"""Parsing of chat requests, without an engine."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fer.data.images import encode_png
from serve_apps.vlm.options import VlmServeConfig
from serve_apps.vlm.request import parse_chat
from serve_apps.vlm.schema import Rejected
from serve_apps.vlm.stream import first_output

CONFIG = VlmServeConfig(
    model="m", max_request_bytes=200_000, max_image_bytes=20_000, max_pixels=10_000, max_images=2, max_new_tokens=64
)
PIXELS = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
PNG = encode_png(PIXELS)


def request(body: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": [], "path": "/"}, receive)


def parse(body: Any, config: VlmServeConfig = CONFIG) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(parse_chat(request(data), config, {"m"}))


def uri(image: bytes, mime_type: str = "image/png") -> str:
    return f"data:{mime_type};base64,{base64.b64encode(image).decode()}"


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]} | fields


def engine_image(body: dict[str, Any]) -> Image.Image:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_the_engine_gets_text_and_images_of_its_size() -> None:
    body = parse(chat(image_part(uri(PNG)), {"type": "text", "text": "Which?"}, temperature=0, stop="."))
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "Which?"}
    assert engine_image(body).size == (224, 224)
    assert {name: body[name] for name in ("temperature", "stop", "max_completion_tokens", "stream")} == {
        "temperature": 0, "stop": ".", "max_completion_tokens": 64, "stream": False,
    }  # fmt: skip
    kept = parse(chat(image_part(uri(PNG))), CONFIG.model_copy(update={"image_size": 0}))
    assert np.array_equal(np.asarray(engine_image(kept)), PIXELS)


def test_the_engine_gets_upright_rgb_images() -> None:
    """Phones store photographs rotated; a transparent image has a fourth channel, which vLLM would paint white."""
    config = CONFIG.model_copy(update={"image_size": 0})
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    assert engine_image(parse(chat(image_part(uri(file.getvalue()))), config)).size == (48, 40)
    transparent = np.dstack([PIXELS, np.zeros((48, 40), np.uint8)])
    file = io.BytesIO()
    Image.fromarray(transparent).save(file, "PNG")
    assert np.array_equal(np.asarray(engine_image(parse(chat(image_part(uri(file.getvalue()))), config))), PIXELS)


def test_guided_decoding_takes_choices_and_objects_of_choices() -> None:
    choices = {"choice": ["happy", "sad"]}
    assert parse(chat("x", structured_outputs=choices) | TEXT)["structured_outputs"] == choices
    assert parse(chat("x", guided_choice=["happy", "sad"]) | TEXT)["structured_outputs"] == choices
    assert parse(chat("x", response_format=json_schema("enum")) | TEXT)["response_format"] == json_schema("enum")
    with pytest.raises(HTTPException, match="give one of"):
        parse(chat("x", guided_choice=["happy"], structured_outputs=choices) | TEXT)


TEXT = {"messages": [{"role": "user", "content": "Which?"}]}


def json_schema(keyword: str) -> dict[str, Any]:
    """As ferbench's client sends it for ``enum``."""
    properties = {"answer": {"type": "string", keyword: ["happy", "sad"]}}
    schema = {"type": "object", "properties": properties, "required": ["answer"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "expression", "strict": True, "schema": schema}}


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 50,000 x 50,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "EOF"),
        (b'"' + b"x" * 300_000, 413, "request of more than"),
        (chat("x"), 422, "messages.0.content"),
        ({"model": "m", "messages": []}, 422, "messages"),
        (TEXT | {"model": "other"}, 404, "no model 'other'"),
        (TEXT | {"model": "m", "chat_template": "{{ 1 }}"}, 422, "chat_template: Extra inputs"),
        (TEXT | {"model": "m", "mm_processor_kwargs": {"max_pixels": 1e9}}, 422, "mm_processor_kwargs: Extra inputs"),
        (TEXT | {"model": "m", "n": 100}, 422, "n: "),
        (TEXT | {"model": "m", "max_tokens": 65}, 422, "max_tokens: 65 is more than 64"),
        (TEXT | {"model": "m", "temperature": "nan"}, 422, "temperature"),
        (TEXT | {"model": "m", "structured_outputs": {"regex": "(a+)+"}}, 422, "structured_outputs"),
        (TEXT | {"model": "m", "structured_outputs": {"choice": []}}, 422, "structured_outputs.choice"),
        (TEXT | {"model": "m", "guided_choice": ["a\nb"]}, 422, "guided_choice"),
        (TEXT | {"model": "m", "response_format": json_schema("pattern")}, 422, "response_format"),
        (TEXT | {"model": "m", "stream_options": {"include_usage": True}}, 422, "stream_options"),
        (chat(image_part("http://169.254.169.254/latest")), 400, "image 0: paths and URLs are not opened"),
        (chat(image_part("file:///etc/passwd")), 400, "paths and URLs are not opened"),
        (chat(image_part("/etc/passwd")), 400, "paths and URLs are not opened"),
        (chat(image_part("data:image/png;base64,?")), 422, "image 0 is neither base64"),
        (chat(image_part("data:image/png,raw")), 422, "image 0 is neither base64"),
        (chat(image_part(uri(b"no image"))), 422, "image 0: not an image"),
        (chat(image_part(uri(PNG)), image_part(uri(PNG[:100]))), 422, "image 1: truncated"),
        (chat(image_part(uri(bomb()))), 422, "50000x50000 pixels"),
        (chat(image_part(uri(b"x" * 20_001))), 413, "image 0 has 20001 bytes"),
        (chat(*[image_part(uri(PNG))] * 3), 413, "3 images, more than 2"),
        (chat({"type": "image_embeds", "image_embeds": "x"}), 422, "image_embeds"),
        ({"model": "m", "messages": [{"role": "system", "content": [image_part(uri(PNG))]}]}, 422, "role user"),
        ({"model": "m", "messages": [{"role": "tool", "content": "x"}]}, 422, "messages.0.role"),
    ],
)
def test_a_bad_request_gets_its_status_and_a_reason(body: Any, status: int, reason: str) -> None:
    with pytest.raises(HTTPException) as caught:
        parse(body)
    assert caught.value.status_code == status
    assert reason in caught.value.detail


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["messages", "max_tokens", "stop", "seed", "stream", "guided_choice", "structured_outputs", "response_format"]


@given(st.sampled_from(FIELDS), JSON_VALUES)
def test_no_value_is_an_error_of_the_server(field: str, value: Any) -> None:
    with suppress(HTTPException):
        parse(TEXT | {"model": "m", field: value})


async def one_engine() -> int:
    return 1


async def rejected(status: int) -> AsyncIterator[Rejected]:
    yield Rejected(status, "why")


@pytest.mark.parametrize(("status", "sent"), [(400, 400), (404, 404), (500, 503), (503, 503)])
def test_a_rejection_by_the_engine_is_never_an_error_of_the_server(status: int, sent: int) -> None:
    with pytest.raises(HTTPException, match="why") as caught:
        asyncio.run(first_output(rejected(status), one_engine))  # type: ignore[arg-type]
    assert caught.value.status_code == sent
    assert (caught.value.headers is not None) == (sent == 503)
