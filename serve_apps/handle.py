"""What the HTTP fronts share: asking a copy of the model, and describing requests and refusals."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_apps.schema import Problem

RETRY_SECONDS = 1
PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 401, 413, 415, 422, 503)}
FILE = {"type": "string", "format": "binary"}


def body(shape: type[BaseModel], field: str, file: dict[str, Any]) -> dict[str, Any]:
    """The request body for the OpenAPI page: it is read by hand, within limits, so FastAPI can't know it."""
    form = {"type": "object", "properties": {field: file}, "required": [field]}
    schemas = {"application/json": {"schema": shape.model_json_schema()}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": schemas}}


async def ask(model: DeploymentHandle, method: str, *arguments: Any) -> Any:
    """Ask a copy of the model. 503 when all are busy and the queue is full, or when none is up."""
    try:
        return await getattr(model, method).remote(*arguments)
    except BackPressureError:
        reason = "the server is busy"
    except (DeploymentUnavailableError, RayActorError):
        reason = "the model is not available"
    raise HTTPException(503, f"{reason}; try again", {"Retry-After": str(RETRY_SECONDS)})
