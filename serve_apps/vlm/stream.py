"""What the engine generates on its way to the client, and errors in OpenAI's form.

Serve cancels generation when the client goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponseGenerator
from starlette.exceptions import HTTPException as StarletteHTTPException

from serve_apps.responses import RETRY_AFTER_SECONDS
from serve_apps.vlm.schema import ChatErrorResponse, ErrorDetail, Rejected

START_SECONDS = 30
"""How long a request waits for an engine that is being started. It goes on starting without it."""
RETRY_START_SECONDS = 15


async def first_output(outputs: AsyncIterator[Any], running_engines: Callable[[], Awaitable[int]]) -> str:
    """The whole response, or the first events of a stream.

    Raises HTTPException if the engine rejects the request, is full, or is still being started.
    """
    waiting = asyncio.ensure_future(anext(outputs))
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=START_SECONDS)
            if not waiting.done() and not await running_engines():
                raise unavailable("the model is being started", RETRY_START_SECONDS)
        first = waiting.result()
    except BackPressureError:
        raise unavailable("the server is busy") from None
    except (DeploymentUnavailableError, RayActorError):
        raise unavailable("the model is not available") from None
    finally:
        waiting.cancel()
    if isinstance(first, Rejected):
        if first.status >= 500:
            raise unavailable(first.reason)
        raise HTTPException(first.status, first.reason)
    return first


async def events(first: str, outputs: DeploymentResponseGenerator) -> AsyncGenerator[str, None]:
    """The body of a streamed response."""
    yield first
    async for output in outputs:
        yield output


def unavailable(reason: str, seconds: int = RETRY_AFTER_SECONDS) -> HTTPException:
    return HTTPException(503, f"{reason}; try again", {"Retry-After": str(seconds)})


async def openai_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
    """Errors in OpenAI's form."""
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    body = ChatErrorResponse(error=ErrorDetail(message=error.detail, type=kind))
    return JSONResponse(body.model_dump(), error.status_code, error.headers)
