"""The classifier's server end to end: a real Ray Serve, a real registry, real HTTP."""

from __future__ import annotations

import base64
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from fer.data.images import encode_png
from fer.errors import UserError
from fer.registry import promote
from fer.tracking import TrackingOptions
from jobs.serve import start
from serve_apps.applications import chosen_apps
from serve_apps.options import ServeConfig
from serve_apps.server import check_port
from tests.waiting import until

pytestmark = pytest.mark.slow

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
PNG = encode_png(PIXELS)


@pytest.fixture(scope="module")
def config(registry: TrackingOptions, server_options: dict[str, Any]) -> ServeConfig:
    return ServeConfig(
        **registry.model_dump(), **server_options, apps=["classifier"], model="models:/face@champion", detector="none",
        models=["face@champion", "face@challenger", "face@broken", "ferry-small"], max_loaded_models=1,
        max_batch_size=2, max_queued_requests=4, max_images=3, max_image_bytes=200_000, max_request_bytes=500_000,
        max_pixels=100_000, min_confidence=0.99, reload_seconds=0.3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def url(ray_cluster: None, config: ServeConfig) -> str:
    return start(chosen_apps(config), config)


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 50,000 x 50,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


def test_predict_accepts_base64_and_returns_every_field(client: httpx.Client) -> None:
    response = client.post("/v1/predict", json={"images": [b64(PNG), b64(PNG)]})
    assert response.status_code == 200
    body = response.json()
    assert (body["model"]["name"], body["model"]["version"]) == ("face", "1")
    assert "what a person feels" in body["disclaimer"]
    assert len(body["images"]) == 2
    (face,) = body["images"][0]["faces"]
    assert face["box"] == {"x": 0, "y": 0, "w": 40, "h": 48}
    assert list(face["scores"]) == body["model"]["labels"]
    assert sum(face["scores"].values()) == pytest.approx(1)
    assert face["confidence"] == max(face["scores"].values()) == face["scores"][face["label"]]
    assert face["uncertain"] is True
    assert face["valence"] is None


def test_predict_accepts_forms(client: httpx.Client) -> None:
    files = [("files", ("a.png", PNG, "image/png"))] * 3
    forms = client.post("/v1/predict", files=files).json()
    assert len(forms["images"]) == 3
    assert forms["images"] == client.post("/v1/predict", json={"images": [b64(PNG)] * 3}).json()["images"]


def test_predict_accepts_an_image_as_the_body(client: httpx.Client) -> None:
    raw = client.post("/v1/predict", content=PNG, headers={"Content-Type": "image/png"}).json()
    assert raw["images"] == client.post("/v1/predict", json={"images": [b64(PNG)]}).json()["images"]


def test_analyze_has_deepfaces_format(client: httpx.Client) -> None:
    for sent in ({"json": {"img": f"data:image/png;base64,{b64(PNG)}"}}, {"files": {"img": PNG}}):
        response = client.post("/analyze", **sent)  # type: ignore[arg-type]
        assert response.status_code == 200
        (result,) = response.json()["results"]
        assert set(result["emotion"]) == {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}
        assert sum(result["emotion"].values()) == pytest.approx(100)
        assert result["dominant_emotion"] == max(result["emotion"], key=result["emotion"].get)
        assert result["region"] == {"x": 0, "y": 0, "w": 40, "h": 48}
        assert result["face_confidence"] == 0


def test_health_models_and_documentation(client: httpx.Client) -> None:
    health = client.get("/healthz", headers={"Authorization": ""}).json()
    assert (health["status"], health["model"]["version"], health["reload_error"]) == ("ok", "1", None)
    assert health["uptime_seconds"] > 0
    models = client.get("/v1/models").json()["models"]
    assert [model["id"] for model in models] == ["face@champion", "face@challenger", "face@broken", "ferry-small"]
    assert [model["version"] for model in models[:3]] == ["1", "2", "3"]
    assert (models[0]["name"], models[0]["head"], models[0]["img_size"]) == ("face", "classification", 32)
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/predict", "/analyze", "/healthz", "/v1/models"} <= set(paths)
    assert "multipart/form-data" in paths["/v1/predict"]["post"]["requestBody"]["content"]


def test_a_request_chooses_one_of_the_models_by_name(client: httpx.Client) -> None:
    raw = {"content": PNG, "headers": {"Content-Type": "image/png"}}
    for name, version in (("face@challenger", "2"), ("face@champion", "1"), ("face@challenger", "2")):
        for sent in (
            {"params": {"model": name}, **raw},
            {"data": {"model": name}, "files": {"files": PNG}},
            {"json": {"images": [b64(PNG)], "model": name}},
        ):
            response = client.post("/v1/predict", **sent)  # type: ignore[arg-type]
            assert (response.status_code, response.json()["model"]["version"]) == (200, version)
    answers = [
        client.post("/analyze", params={"model": name}, files={"img": PNG}).json()["results"][0]["emotion"]
        for name in ("face@champion", "ferry-small")
    ]
    assert "contempt" in answers[1]
    assert "contempt" not in answers[0]


def test_an_unknown_model_and_a_broken_one_are_refused(client: httpx.Client) -> None:
    for name, status in (("face", 404), ("/etc", 404), ("models:/face@challenger", 404), ("face@broken", 503)):
        response = client.post("/v1/predict", params={"model": name}, files={"files": PNG})
        assert response.status_code == status
        assert repr(name) in response.json()["detail"]
    assert response.headers["Retry-After"] == "1"
    assert client.post("/v1/predict", files={"files": PNG}).status_code == 200


def test_keys_have_scopes_and_rates(client: httpx.Client, api_keys: dict[str, str]) -> None:
    def send(key: str) -> httpx.Response:
        return client.post("/v1/predict", files={"files": PNG}, headers={"Authorization": f"Bearer {api_keys[key]}"})

    forbidden = send("metadata")
    assert (forbidden.status_code, forbidden.json()["detail"]) == (
        403,
        "this key is not for 'predict', but for metadata",
    )
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {api_keys['metadata']}"}).status_code == 200
    assert send("slow").status_code == 200
    limited = send("slow")
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["Retry-After"]) <= 60


def test_pages_of_other_origins_are_kept_out(client: httpx.Client, check_cors: Callable[..., None]) -> None:
    check_cors(client, "/v1/models", "/v1/predict")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"hello", "not an image"),
        (PNG[: len(PNG) // 2], "truncated"),
        (bomb(), "50000x50000 pixels"),
        (encode_png(np.zeros((400, 400), np.uint8)), "400x400 pixels, more than 100000"),
        (b"", "empty"),
    ],
)
def test_the_response_names_the_invalid_image_and_the_reason(client: httpx.Client, image: bytes, reason: str) -> None:
    response = client.post("/v1/predict", json={"images": [b64(PNG), b64(image)]})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("image 1: ")
    assert reason in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/v1/predict", {"content": b"x" * 500_001, "headers": {"Content-Type": "application/json"}}, 413),
        ("/v1/predict", {"content": iter([b"x" * 100_000] * 6), "headers": {"Content-Type": "application/json"}}, 413),
        ("/v1/predict", {"json": {"images": [b64(PNG)] * 4}}, 413),
        ("/v1/predict", {"json": {"images": [b64(b"x" * 200_001)]}}, 413),
        ("/v1/predict", {"files": [("files", PNG)] * 4}, 413),
        ("/v1/predict", {"files": [("files", b"x" * 200_001)]}, 413),
        ("/v1/predict", {"json": {"images": []}}, 422),
        ("/v1/predict", {"json": {"images": ["?"]}}, 422),
        ("/v1/predict", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("/v1/predict", {"content": PNG, "headers": {"Content-Type": "text/plain"}}, 415),
        ("/analyze", {"json": {"img_path": "/etc/hostname"}}, 400),
        ("/analyze", {"json": {"img": "http://127.0.0.1/face.jpg"}}, 400),
        ("/v1/predict", {"json": {"images": [b64(PNG)]}, "headers": {"Authorization": "Bearer wrong"}}, 401),
        ("/nothing", {"json": {}}, 404),
    ],
)
def test_bad_requests_get_their_status_and_a_reason(client: httpx.Client, path: str, sent: dict, status: int) -> None:
    response = client.post(path, **sent)
    assert response.status_code == status
    assert response.json()["detail"]


def test_an_overloaded_server_returns_503_and_recovers(client: httpx.Client) -> None:
    def send(_: int) -> httpx.Response:
        return client.post("/v1/predict", json={"images": [b64(PNG)]})

    responses: list[httpx.Response] = []
    with ThreadPoolExecutor(50) as pool:
        while {response.status_code for response in responses} <= {200} and len(responses) < 1500:
            responses += pool.map(send, range(150))
    assert {response.status_code for response in responses} == {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert response.headers["Retry-After"] == "1"
            assert "busy" in response.json()["detail"]
            assert response.headers["X-Request-ID"]
    assert client.get("/healthz").status_code == 200


def test_a_promotion_reaches_the_server_and_no_request_fails(client: httpx.Client, registry: TrackingOptions) -> None:
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def keep_sending() -> None:
        while not stop.is_set():
            response = client.post("/v1/predict", files=[("files", PNG)])
            version = response.json()["model"]["version"] if response.is_success else response.text
            seen.append((response.status_code, version))

    threads = [threading.Thread(target=keep_sending) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: (200, "1") in seen)
        promote("face", "2", "champion", registry)
        until(lambda: (200, "2") in seen)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in seen} == {200}
    face = client.post("/v1/predict", files=[("files", PNG)]).json()["images"][0]["faces"][0]
    assert -1 <= face["valence"] <= 1
    assert -1 <= face["arousal"] <= 1

    promote("face", "3", "champion", registry)
    until(lambda: client.get("/healthz").json()["reload_error"])
    assert client.get("/healthz").json()["model"]["version"] == "2"
    promote("face", "1", "champion", registry)
    until(lambda: client.get("/healthz").json()["model"]["version"] == "1")
    assert client.get("/healthz").json()["reload_error"] is None


def test_a_port_in_use_is_a_user_error(client: httpx.Client, config: ServeConfig) -> None:
    with pytest.raises(UserError, match=f"port {config.port}.*choose another --port"):
        check_port(config.host, config.port)


@pytest.mark.parametrize(
    ("port", "reason"), [(0, "an application classifier already"), (1, "use --host 127.0.0.1 --port")]
)
def test_a_second_server_on_the_cluster_is_a_user_error(
    client: httpx.Client, config: ServeConfig, port: int, reason: str
) -> None:
    other = config.model_copy(update={"port": config.port + port})
    with pytest.raises(UserError, match=reason):
        start(chosen_apps(other), other)
    assert client.get("/healthz").status_code == 200
