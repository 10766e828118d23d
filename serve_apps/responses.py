"""Responses of every application: JSON, errors, and their description for OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from fer import __version__
from serve_apps.monitoring.request_log import RequestLog
from serve_apps.page.routes import docs_router
from serve_apps.schema import ErrorResponse

RETRY_AFTER_SECONDS = 1
BINARY_FILE = {"type": "string", "format": "binary"}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 401, 403, 408, 413, 415, 421, 422, 429, 503)
}
CLIENT_CLOSED_REQUEST = 499


def new_api(title: str, description: str) -> FastAPI:
    """An HTTP API to which an application adds its routes. A client that goes away while it sends is no error."""
    api = FastAPI(title=title, version=__version__, description=description, docs_url=None, redoc_url=None)
    api.include_router(docs_router())
    api.add_middleware(RequestLog)
    api.add_exception_handler(ClientDisconnect, _client_left)
    return api


def to_json(result: BaseModel) -> Response:
    """The result as JSON. Pydantic writes it, several times as fast as FastAPI does when a route returns the model."""
    return Response(result.model_dump_json(), media_type="application/json")


def request_body(
    schema: type[BaseModel], file_field: str, files: dict[str, Any], raw: str | None = None
) -> dict[str, Any]:
    """The OpenAPI description of a request body: JSON, a form with files, or one raw file of media type ``raw``.

    FastAPI can't derive it: the body is parsed by `serve_apps.request_parsing`, which enforces the limits.
    """
    json_schema = schema.model_json_schema()
    form: dict[str, Any] = {"type": "object", "properties": {file_field: files}, "required": [file_field]}
    schemas = {"application/json": {"schema": json_schema}, "multipart/form-data": {"schema": form}}
    if raw:
        schemas[raw] = {"schema": BINARY_FILE}
    body: dict[str, Any] = {"requestBody": {"required": True, "content": schemas}}
    if model := json_schema["properties"].get("model"):  # may be in the address, too
        form["properties"]["model"] = model
        body["parameters"] = [{"name": "model", "in": "query", "schema": model}]
    return body


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a request body in JSON, which `serve_apps.request_parsing` reads within the limits."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema.model_json_schema()}}}}


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
