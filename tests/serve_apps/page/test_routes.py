"""The page's static files: headers, caching, and what is said when the page is not built."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve_apps.page.routes import docs_router, page_router


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    (tmp_path / "dist").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    app = FastAPI(docs_url=None)
    app.include_router(page_router(tmp_path / "dist"))
    app.include_router(docs_router(tmp_path / "dist"))
    return TestClient(app)


def test_nothing_is_loaded_from_elsewhere(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "dist" / "index.html").write_text("<h1>Ferry</h1>")
    response = client.get("/")
    assert (response.status_code, response.text) == (200, "<h1>Ferry</h1>")
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'")
    assert "unsafe-inline" not in policy
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_asset_is_not_sent_again(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "dist" / "main.js").write_text("1;")
    first = client.get("/assets/main.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["cache-control"] == "no-cache"
    assert client.get("/assets/main.js", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["/assets/missing.js", "/assets/../secret.txt", "/assets/%2e%2e/secret.txt"])
def test_only_assets_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_without_the_built_page_one_line_says_how_to_build_it(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 503
    assert response.text.count("\n") == 1
    assert "make setup" in response.text
