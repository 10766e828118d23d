"""The page's static files, with headers that keep the browser from loading or sending anything elsewhere."""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

DIST = Path(__file__).parent / "dist"
NOT_BUILT = "The page is not built: run `make setup` in Ferry's checkout, or `npm ci && npm run build`, and reload."
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob:; media-src blob:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag: 304 unless Ferry was updated
}


def page_router(dist: Path = DIST) -> APIRouter:
    """`/` and `/assets/...`; no token is needed. Without the built page, `/` says how to build it."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(directory=dist, check_dir=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        if not (dist / "index.html").is_file():
            return PlainTextResponse(NOT_BUILT + "\n", 503)
        return await asset("index.html", request)

    @router.get("/assets/{path:path}")
    async def asset(path: str, request: Request) -> Response:
        response = await files.get_response(path, request.scope)
        response.headers.update(HEADERS)
        return response

    return router
