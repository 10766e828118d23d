"""What the engine generates on its way to the client, and errors in OpenAI's form.

Serve cancels generation when the client goes away.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponseGenerator
from starlette.exceptions import HTTPException as StarletteHTTPException

from serve_apps.responses import RETRY_AFTER_SECONDS
from serve_apps.vlm_schema import ChatErrorResponse, ErrorDetail, Rejected


async def first_output(outputs: DeploymentResponseGenerator) -> str:
    """The whole response, or the first events of a stream.

    Raises HTTPException if the engine rejects the request, or is full.
    """
    try:
        first = await anext(outputs)
    except BackPressureError:
        raise unavailable("the server is busy") from None
    except (DeploymentUnavailableError, RayActorError):
        raise unavailable("the model is not available") from None
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


def unavailable(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}; try again", {"Retry-After": str(RETRY_AFTER_SECONDS)})


async def openai_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
    """Errors in OpenAI's form."""
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    body = ChatErrorResponse(error=ErrorDetail(message=error.detail, type=kind))
    return JSONResponse(body.model_dump(), error.status_code, error.headers)
