"""What every HTTP ingress does: authenticate, call a replica of the model, report health, and document its requests."""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import time
from typing import Any

from fastapi import HTTPException, Request
from pydantic import BaseModel
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_apps.auth import check_token
from serve_apps.options import ServerOptions
from serve_apps.schema import ErrorResponse, Health, InvalidInput

RETRY_AFTER_SECONDS = 1
BINARY_FILE = {"type": "string", "format": "binary"}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 401, 413, 415, 422, 503)
}
HEALTH_RESPONSES: dict[int | str, dict[str, Any]] = {503: {"model": ErrorResponse}}


class Ingress:
    """The HTTP side of an application, in front of the replicas of a model."""

    def __init__(self, model: DeploymentHandle, config: ServerOptions, token_digest: bytes | None) -> None:
        self.model, self.config, self.token_digest = model, config, token_digest
        self.started = time.monotonic()

    def authenticate(self, request: Request) -> None:
        """Raise HTTPException 401 if the request lacks the token."""
        check_token(request, self.token_digest)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of one replica of the model.

        Raises HTTPException: 422 if the replica finds the input invalid, 503 if the queue is full or no replica is up.
        """
        try:
            result = await getattr(self.model, method).remote(*arguments)
        except BackPressureError:
            raise _unavailable("the server is busy") from None
        except (DeploymentUnavailableError, RayActorError):
            raise _unavailable("the model is not available") from None
        if isinstance(result, InvalidInput):
            raise HTTPException(422, result.reason)
        return result

    async def report_health(self) -> Health[Any]:
        """The state of one replica. Raises HTTPException 503 if none responds."""
        info, error = await self.call("health")
        return Health(model=info, uptime_seconds=time.monotonic() - self.started, reload_error=error)


def request_body(schema: type[BaseModel], file_field: str, files: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of a request body, as JSON or as a form with files.

    FastAPI can't derive it: the body is parsed by `serve_apps.request_parsing`, which enforces the limits.
    """
    form = {"type": "object", "properties": {file_field: files}, "required": [file_field]}
    schemas = {"application/json": {"schema": schema.model_json_schema()}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": schemas}}


def _unavailable(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}; try again", {"Retry-After": str(RETRY_AFTER_SECONDS)})
