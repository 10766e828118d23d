"""Parsing of chat requests: the limits, and the images. A bad request raises HTTPException 4xx.

The engine only sees images that were decoded here and written again: upright, RGB, of the size that the model expects.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Container
from typing import Any

import numpy as np
from fastapi import HTTPException, Request

from fer.data.images import decode_untrusted
from fer.errors import BadRow
from fer.inference.images import encode_for_model
from serve_apps.request_parsing import decode_base64, read_json
from serve_apps.vlm.options import VlmServeConfig
from serve_apps.vlm.schema import ChatRequest, ImagePart, TextPart


async def parse_chat(request: Request, config: VlmServeConfig, names: Container[str]) -> dict[str, Any]:
    """The engine's request for the body of ``POST /v1/chat/completions``; ``names`` are those of the models."""
    chat = await read_json(request, config, ChatRequest)
    if chat.model not in names:
        raise HTTPException(404, f"no model {chat.model!r} here; GET v1/models lists the models")
    images = [part for message in chat.messages for part in message.content if isinstance(part, ImagePart)]
    if len(images) > config.max_images:
        raise HTTPException(413, f"{len(images)} images, more than {config.max_images}")
    urls = iter(await asyncio.to_thread(_check_images, [part.image_url.url for part in images], config))
    messages = [
        {"role": message.role, "content": [_engine_part(part, urls) for part in message.content]}
        for message in chat.messages
    ]
    return {"model": chat.model, "messages": messages, "stream": chat.stream} | _generation(chat, config)


def _generation(chat: ChatRequest, config: VlmServeConfig) -> dict[str, Any]:
    """The engine's settings of generation."""
    max_tokens = chat.max_completion_tokens or chat.max_tokens or config.max_new_tokens
    if max_tokens > config.max_new_tokens:
        raise HTTPException(422, f"max_tokens: {max_tokens} is more than {config.max_new_tokens}")
    settings = chat.model_dump(
        include={"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "stream_options"},
        exclude_none=True,
    )
    if choice := chat.guided_choice or (chat.structured_outputs and chat.structured_outputs.choice):
        settings["structured_outputs"] = {"choice": choice}
    if chat.response_format:
        settings["response_format"] = chat.response_format.model_dump(by_alias=True, exclude_none=True)
    return settings | {"max_completion_tokens": max_tokens}


def _engine_part(part: TextPart | ImagePart, urls: Any) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": next(urls)}}


def _check_images(urls: list[str], config: VlmServeConfig) -> list[str]:
    return [_check_image(number, url, config) for number, url in enumerate(urls)]


def _check_image(number: int, url: str, config: VlmServeConfig) -> str:
    """The image of a data URI, checked, decoded, resized and encoded again."""
    if not url.startswith("data:"):
        raise HTTPException(
            400, f"image {number}: paths and URLs are not opened; send the image as data:image/jpeg;base64,..."
        )
    image = decode_base64(url, f"image {number}")
    if len(image) > config.max_image_bytes:
        raise HTTPException(413, f"image {number} has {len(image)} bytes, more than {config.max_image_bytes}")
    try:
        pixels = decode_untrusted(image, config.max_pixels, config.max_image_bytes)
    except BadRow as error:
        raise HTTPException(422, f"image {number}: {error}") from None
    return data_uri(pixels, config.image_size)


def data_uri(pixels: np.ndarray, side: int) -> str:
    """An image as the engine gets it: a PNG of ``side`` x ``side`` pixels, 0 to keep their size."""
    return f"data:image/png;base64,{base64.b64encode(encode_for_model(pixels, side)).decode()}"
