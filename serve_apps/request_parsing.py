"""Parsing of HTTP requests to encoded images, within the limits. A bad request raises HTTPException 4xx.

Images stay in memory: nothing that a client sends is written to disk or to a log.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serve_apps.classifier.deepface import AnalyzeRequest
from serve_apps.options import DynamicsServeConfig, LimitOptions
from serve_apps.schema import DynamicsRequest, PredictRequest

MAX_FORM_FIELDS = 16
"""Text fields that a form may have beside its files."""

FORM, JSON, IMAGE = "multipart/form-data", "application/json", "image/"

S = TypeVar("S", bound=BaseModel)


class DynamicsFrame(NamedTuple):
    """One frame and its baseline, not validated yet."""

    flow: bytes
    """Encoded image of the optical flow from the baseline."""
    expression: list[tuple[float, float]]
    """Landmarks of the frame, (x, y) in pixels."""
    baseline: list[tuple[float, float]]
    """Landmarks of the baseline, (x, y) in pixels."""


class ImageRequest(NamedTuple):
    """Encoded images, and the name of the model that is to read them, if the request has one."""

    images: list[bytes]
    model: str | None


async def parse_predict(request: Request, limits: LimitOptions) -> ImageRequest:
    """The images of ``POST /v1/predict``: one as the body, the files of a form, or base64 in JSON."""
    media_type = _media_type(request, images=True)
    model = request.query_params.get("model") or None
    if media_type.startswith(IMAGE):
        images = [await _read_body(request, limits)]
    elif media_type == FORM:
        images, fields = await _read_form(request, limits)
        model = model or fields.get("model")
    else:
        body = await read_json(request, limits, PredictRequest)
        if len(body.images) > limits.max_images:
            raise HTTPException(413, f"{len(body.images)} images, more than {limits.max_images}")
        images = [decode_base64(text, f"image {number}") for number, text in enumerate(body.images)]
        model = model or body.model
    return ImageRequest(_check_sizes(images, limits), model)


async def parse_analyze(request: Request, limits: LimitOptions) -> ImageRequest:
    """The one image of ``POST /analyze``: the file ``img`` of a form, or a data URI in JSON."""
    model = request.query_params.get("model") or None
    if _media_type(request) == FORM:
        images, fields = await _read_form(request, limits)
        model = model or fields.get("model")
    else:
        body = await read_json(request, limits, AnalyzeRequest)
        if body.img_path is not None or (body.img or "").startswith(("http://", "https://", "file:")):
            raise HTTPException(400, "paths and URLs are not read; send the image itself as a data URI in `img`")
        if not body.img:
            raise HTTPException(422, "no image: send a data URI in `img`")
        images = [decode_base64(body.img, "img")]
        model = model or body.model
    if len(images) > 1:
        raise HTTPException(422, f"{len(images)} images; /analyze accepts one, /v1/predict several")
    return ImageRequest(_check_sizes(images, limits), model)


async def parse_dynamics(request: Request, config: DynamicsServeConfig) -> DynamicsFrame | bytes:
    """The input of ``POST /v1/dynamics``: a frame and its baseline in JSON, or a video file in a form."""
    if _media_type(request) == FORM:
        if config.landmarker is None:
            raise HTTPException(422, "this server accepts no videos: it was started without --landmarker")
        videos, _ = await _read_form(request, config)
        if len(videos) != 1:
            raise HTTPException(422, f"{len(videos)} files; send one video")
        return videos[0]
    body = await read_json(request, config, DynamicsRequest)
    return DynamicsFrame(decode_base64(body.flow, "flow"), body.expression_landmarks, body.baseline_landmarks)


def _media_type(request: Request, images: bool = False) -> str:
    """The content type, without parameters. Raises HTTPException 415 if it is no form, no JSON and no image."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (FORM, JSON) and not (images and media_type.startswith(IMAGE)):
        accepted = f"{'image/jpeg, ..., ' if images else ''}{FORM} or {JSON}"
        raise HTTPException(415, f"content type {media_type or 'missing'!r}; send {accepted}")
    return media_type


async def _stream_body(request: Request, limits: LimitOptions) -> AsyncGenerator[bytes, None]:
    """The body's bytes as they arrive, up to the limit, whatever the Content-Length says."""
    too_large = HTTPException(413, f"request of more than {limits.max_request_bytes} bytes")
    content_length = request.headers.get("content-length", "0")
    if content_length.isdigit() and int(content_length) > limits.max_request_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_request_bytes:
            raise too_large
        yield chunk


@asynccontextmanager
async def _in_time(limits: LimitOptions) -> AsyncIterator[None]:
    """Raise HTTPException 408 for a request that does not arrive in time: a slow client holds a place in the queue."""
    try:
        async with asyncio.timeout(limits.max_upload_seconds):
            yield
    except TimeoutError:
        raise HTTPException(408, f"the request took more than {limits.max_upload_seconds:g} s to arrive") from None


async def _read_body(request: Request, limits: LimitOptions) -> bytes:
    async with _in_time(limits):
        return b"".join([chunk async for chunk in _stream_body(request, limits)])


async def read_json(request: Request, limits: LimitOptions, schema: type[S]) -> S:
    body = await _read_body(request, limits)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise HTTPException(400, first["msg"]) from None
        field = ".".join(str(part) for part in first["loc"])
        raise HTTPException(422, f"{field}: {first['msg']}" if field else first["msg"]) from None


async def _read_form(request: Request, limits: LimitOptions) -> tuple[list[bytes], dict[str, str]]:
    """The files of a form, and its other fields."""
    parser = MultiPartParser(
        request.headers, _stream_body(request, limits), max_files=limits.max_images, max_fields=MAX_FORM_FIELDS
    )
    parser.spool_max_size = limits.max_request_bytes + 1  # so that nothing is spooled to disk
    try:
        async with _in_time(limits):
            form = await parser.parse()
    except MultiPartException as error:
        too_many = "Too many files" in error.message
        raise HTTPException(413 if too_many else 400, f"multipart form: {error.message}") from None
    except UnicodeError:  # a charset such as `undefined`, which Python knows as a name only
        raise HTTPException(400, "multipart form: its charset can't be decoded") from None
    files = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    await form.close()
    return files, fields


def decode_base64(text: str, name: str) -> bytes:
    """Decode base64, plain or in a data URI."""
    head, comma, data = text.partition(",")
    if comma and not (head.startswith("data:") and head.endswith(";base64")):
        raise HTTPException(422, f"{name} is neither base64 nor a base64 data URI")
    try:
        return base64.b64decode(data if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, f"{name} is neither base64 nor a base64 data URI") from None


def _check_sizes(images: Sequence[bytes], limits: LimitOptions) -> list[bytes]:
    if not images:
        raise HTTPException(422, "no image in the request")
    for number, image in enumerate(images):
        if len(image) > limits.max_image_bytes:
            raise HTTPException(413, f"image {number} has {len(image)} bytes, more than {limits.max_image_bytes}")
    return list(images)
