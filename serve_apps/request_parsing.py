"""From an HTTP request to encoded images, with every limit on the way. What is wrong raises HTTPException, 4xx.

Images stay in memory: nothing that a client sends is written to disk or to a log.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serve_apps.options import DynamicsServeConfig, LimitOptions
from serve_apps.schema import AnalyzeRequest, DynamicsRequest, PredictRequest

FEW = 16  # text fields that a form may have beside its files

B = TypeVar("B", bound=BaseModel)


class DynamicsFrame(NamedTuple):
    """One frame against its baseline, not checked yet."""

    flow: bytes
    """The flow picture, encoded."""
    expression: list[tuple[float, float]]
    baseline: list[tuple[float, float]]


async def predict_images(request: Request, limits: LimitOptions) -> list[bytes]:
    """The images of ``POST /v1/predict``: the files of a form, or base64 in JSON."""
    if _is_form(request):
        images = await _files(request, limits)
    else:
        asked = await _json(request, limits, PredictRequest)
        if len(asked.images) > limits.max_images:
            raise HTTPException(413, f"{len(asked.images)} images, more than {limits.max_images}")
        images = [_decode(text, f"image {number}") for number, text in enumerate(asked.images)]
    return _checked(images, limits)


async def analyze_image(request: Request, limits: LimitOptions) -> bytes:
    """The one image of ``POST /analyze``: the file ``img`` of a form, or a data URI in JSON."""
    if _is_form(request):
        images = await _files(request, limits)
    else:
        asked = await _json(request, limits, AnalyzeRequest)
        if asked.img_path is not None or (asked.img or "").startswith(("http://", "https://", "file:")):
            raise HTTPException(400, "paths and URLs are not read; send the image itself as a data URI in `img`")
        if not asked.img:
            raise HTTPException(422, "no image: send a data URI in `img`")
        images = [_decode(asked.img, "img")]
    if len(images) > 1:
        raise HTTPException(422, f"{len(images)} images; /analyze takes one, /v1/predict several")
    return _checked(images, limits)[0]


async def dynamics_input(request: Request, config: DynamicsServeConfig) -> DynamicsFrame | bytes:
    """What ``POST /v1/dynamics`` scores: a frame and its baseline in JSON, or the file of a video in a form."""
    if _is_form(request):
        if config.landmarker is None:
            raise HTTPException(422, "this server takes no videos: it was started without --landmarker")
        videos = await _files(request, config)
        if len(videos) != 1:
            raise HTTPException(422, f"{len(videos)} files; send one video")
        return videos[0]
    asked = await _json(request, config, DynamicsRequest)
    return DynamicsFrame(_decode(asked.flow, "flow"), asked.expression_landmarks, asked.baseline_landmarks)


def _is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise HTTPException(415, f"content type {kind or 'missing'!r}; send multipart/form-data or application/json")
    return kind == "multipart/form-data"


async def _body(request: Request, limits: LimitOptions) -> AsyncGenerator[bytes, None]:
    """The request's bytes as they arrive; stops at the limit, whatever the client announced."""
    too_large = HTTPException(413, f"request of more than {limits.max_request_bytes} bytes")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.max_request_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_request_bytes:
            raise too_large
        yield chunk


async def _json(request: Request, limits: LimitOptions, shape: type[B]) -> B:
    body = bytearray()
    async for chunk in _body(request, limits):
        body += chunk
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        if fault["type"] == "json_invalid":
            raise HTTPException(400, fault["msg"]) from None
        where = ".".join(str(part) for part in fault["loc"])
        raise HTTPException(422, f"{where}: {fault['msg']}" if where else fault["msg"]) from None


async def _files(request: Request, limits: LimitOptions) -> list[bytes]:
    parser = MultiPartParser(request.headers, _body(request, limits), max_files=limits.max_images, max_fields=FEW)
    parser.spool_max_size = limits.max_request_bytes + 1  # never on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        too_many = "Too many files" in error.message
        raise HTTPException(413 if too_many else 400, f"multipart form: {error.message}") from None
    images = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    await form.close()
    return images


def _decode(text: str, name: str) -> bytes:
    """Base64, bare or in a data URI, to bytes."""
    head, comma, data = text.partition(",")
    if comma and not (head.startswith("data:") and head.endswith(";base64")):
        raise HTTPException(422, f"{name} is neither base64 nor a base64 data URI")
    try:
        return base64.b64decode(data if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, f"{name} is neither base64 nor a base64 data URI") from None


def _checked(images: Sequence[bytes], limits: LimitOptions) -> list[bytes]:
    if not images:
        raise HTTPException(422, "no image in the request")
    for number, image in enumerate(images):
        if len(image) > limits.max_image_bytes:
            raise HTTPException(413, f"image {number} has {len(image)} bytes, more than {limits.max_image_bytes}")
    return list(images)
