"""Static files: the page and the API's documentation, with headers that keep the browser from going elsewhere."""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

DIST = Path(__file__).parent / "dist"
NOT_BUILT = "The page is not built: run `make setup` in Ferry's checkout, or `npm ci && npm run build`, and reload."
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob:; media-src blob:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = POLICY.replace("img-src 'self'", "img-src 'self' data:")  # the icons in Swagger UI's style sheet
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag: 304 unless Ferry was updated
}


def page_router(dist: Path = DIST) -> APIRouter:
    """`/`; no token is needed."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return await static_file(dist, "index.html", request)

    return router


def docs_router(dist: Path = DIST) -> APIRouter:
    """`/docs`, and `/assets/...` of both pages; no token is needed."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return await static_file(dist, "docs.html", request, DOCS_POLICY)

    @router.get("/assets/{path:path}")
    async def asset(path: str, request: Request) -> Response:
        return await static_file(dist, path, request)

    return router


async def static_file(dist: Path, path: str, request: Request, policy: str = POLICY) -> Response:
    """A file of the built page, or 404. If it is not built, the response to a page says how to build it."""
    if path.endswith(".html") and not (dist / path).is_file():
        return PlainTextResponse(NOT_BUILT + "\n", 503)
    response = await StaticFiles(directory=dist, check_dir=False).get_response(path, request.scope)
    response.headers.update(HEADERS | {"Content-Security-Policy": policy})
    return response
