"""The server of facial dynamics end to end: a real Ray Serve and real HTTP."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve
from ray.serve.schema import ReplicaState

from fer.data.images import encode_png
from fer.data.synthetic.sequence import sample_sequence
from fer.dynamics import flow
from jobs.serve import start
from serve_apps.applications import App, ready_args
from serve_apps.dynamics.app import DynamicsReplica, build_app
from serve_apps.dynamics.inference import load_dynamics_model, predict_frame
from serve_apps.options import DynamicsServeConfig
from serve_apps.request_parsing import DynamicsFrame
from serve_apps.schema import DynamicsResponse, InvalidInput
from tests.waiting import until

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).parents[4] / "shared" / "data" / "models" / "face_landmarker_v2_with_blendshapes.task"
VIDEOS = find_spec("mediapipe") is not None and BUNDLE.exists()

needs_videos = pytest.mark.skipif(not VIDEOS, reason="needs the extra `landmarks`, and its data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fer.dynamics.model import DynamicsModel, DynamicsSpec, save_model
    from fer.dynamics.options import DynamicsModelOptions

    options = DynamicsModelOptions(backbone="test_resnet")
    folder = tmp_path_factory.mktemp("scorer") / "model"
    save_model(DynamicsModel(options).state_dict(), DynamicsSpec(options=options), folder)
    return folder


@pytest.fixture(scope="module")
def url(
    ray_cluster: None, model: Path, server_options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A server that accepts videos if MediaPipe and its landmarker file are available."""
    config = DynamicsServeConfig(
        **server_options,
        model=str(model),
        landmarker=str(BUNDLE) if VIDEOS else None,
        storage=str(tmp_path_factory.mktemp("runs")),
        max_request_bytes=2_000_000,
        max_frames=100,
        device="cpu",
    )
    return start([App("dynamics", "/", build_app, ready_args(config))], config)


@pytest.fixture
def frame() -> dict:
    moment = sample_sequence("smile", 2, np.random.default_rng(0))[1]
    return {
        "flow": base64.b64encode(flow.encode_jpeg(flow.to_image(moment.flow() / flow.SIDE))).decode(),
        "expression_landmarks": moment.expression_landmarks.tolist(),
        "baseline_landmarks": moment.baseline_landmarks.tolist(),
    }


def test_a_frame_is_scored(client: httpx.Client, frame: dict) -> None:
    response = client.post("/v1/dynamics", json=frame)
    assert response.status_code == 200, response.text
    body = response.json()
    (scores,) = body["frames"]
    assert 0 <= scores["dynamics"] <= 5
    assert 0 <= scores["synkinesis"] <= 3
    assert scores["dynamics_level"] == int(scores["dynamics"] + 0.5)
    assert "not a diagnosis" in body["disclaimer"]
    assert body["model"]["branch"] == "fusion"
    assert body["model"]["takes_videos"] is VIDEOS


def test_access_is_limited(
    client: httpx.Client, frame: dict, api_keys: dict[str, str], check_cors: Callable[..., None]
) -> None:
    headers = {"Authorization": f"Bearer {api_keys['metadata']}"}
    assert client.post("/v1/dynamics", json=frame, headers=headers).status_code == 403
    check_cors(client, "/healthz", "/v1/dynamics")


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"flow": "?"}, 422, "flow is neither base64"),
        ({"flow": base64.b64encode(b"text").decode()}, 422, "not an image"),
        ({"flow": base64.b64encode(encode_png(np.zeros((64, 64, 3), np.uint8))).decode()}, 422, "64x64 pixels"),
        ({"flow": base64.b64encode(encode_png(np.zeros((112, 112, 3), np.uint8))[:100]).decode()}, 422, "truncated"),
        ({"baseline_landmarks": [[0.0, 0.0]] * 146}, 422, "all the same"),
        ({"baseline_landmarks": [[0.0, 0.0]] * 145}, 422, "baseline_landmarks"),
        ({"expression_landmarks": [["x", 0]] * 146}, 422, "expression_landmarks"),
    ],
)
def test_an_invalid_frame_gets_a_reason(
    client: httpx.Client, frame: dict, change: dict, status: int, reason: str
) -> None:
    response = client.post("/v1/dynamics", json=frame | change)
    assert response.status_code == status
    assert reason in response.json()["detail"]


def test_a_frame_is_decoded_once(model: Path, frame: dict, count_decodes: Callable[[], int]) -> None:
    config = DynamicsServeConfig(model=str(model), device="cpu")
    sent = DynamicsFrame(base64.b64decode(frame["flow"]), frame["expression_landmarks"], frame["baseline_landmarks"])
    response = predict_frame(sent, load_dynamics_model(model, "tiny", "1", config))
    assert isinstance(response, DynamicsResponse)
    assert count_decodes() == 1


def test_bad_requests_get_their_status(client: httpx.Client, frame: dict) -> None:
    assert client.post("/v1/dynamics", json=frame, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/v1/dynamics", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post("/v1/dynamics", files={"video": b"x" * 2_100_000}).status_code == 413


def test_health_and_documentation(client: httpx.Client) -> None:
    health = client.get("/healthz", headers={"Authorization": ""}).json()
    assert (health["status"], health["reload_error"]) == ("ok", None)
    document = client.get("/openapi.json").json()
    assert "not a diagnosis" in document["info"]["description"]
    assert "/v1/dynamics" in document["paths"]


def test_the_video_of_a_client_that_left_is_not_read_beside_the_next_one(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, overlapped, started, go_on = [], [], threading.Event(), threading.Event()

    def predict_video(source: bytes, *others: object) -> InvalidInput:
        overlapped.extend(running)
        running.append(source)
        started.set()
        assert go_on.wait(60)
        running.remove(source)
        return InvalidInput(reason=source.decode())

    async def scenario() -> InvalidInput:
        first = asyncio.create_task(replica.predict(b"first"))
        await asyncio.to_thread(started.wait, 60)
        first.cancel()
        second = asyncio.create_task(replica.predict(b"second"))
        await asyncio.wait([second], timeout=0.2)
        go_on.set()
        return await second

    monkeypatch.setattr("serve_apps.dynamics.inference.predict_video", predict_video)
    replica_class = DynamicsReplica.func_or_class.__mro__[1]  # type: ignore[attr-defined]  # without its HTTP server
    replica = replica_class(DynamicsServeConfig(model=str(model), device="cpu"), [])
    replica.landmarker = object()
    assert asyncio.run(scenario()).reason == "second"
    assert not overlapped


@needs_videos
def test_a_video_is_scored_frame_by_frame(client: httpx.Client, shared_data: Path) -> None:
    video = (shared_data / "videos" / "single_face.mp4").read_bytes()
    response = client.post("/v1/dynamics", files={"video": video})
    assert response.status_code == 200, response.text
    body = response.json()
    assert len(body["frames"]) == 72
    assert all(0 <= frame["dynamics"] <= 5 and 0 <= frame["synkinesis"] <= 3 for frame in body["frames"])
    assert body["baseline_frame"] in [frame["frame"] for frame in body["frames"]]
    assert "not a diagnosis" in body["disclaimer"]


@needs_videos
@pytest.mark.parametrize(
    ("video", "reason"),
    [
        ("no_face.mp4", "no face was found"),
        ("two_people.mp4", "more than 100 frames"),
        (b"no video", "not a video"),
    ],
)
def test_a_video_that_cannot_be_scored_gets_a_reason(
    client: httpx.Client, shared_data: Path, video: str | bytes, reason: str
) -> None:
    data = (shared_data / "videos" / video).read_bytes() if isinstance(video, str) else video
    response = client.post("/v1/dynamics", files={"video": data})
    assert response.status_code == 422, response.text
    assert reason in response.json()["detail"]
    assert "/tmp" not in response.json()["detail"]


def test_without_requests_no_replica_runs_and_the_next_requests_wait_for_one(
    client: httpx.Client, frame: dict, model: Path, server_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_apps.deployment.IDLE_SECONDS", 1)
    config = DynamicsServeConfig(**server_options, model=str(model), min_replicas=0, device="cpu")
    start([App("idle", "/idle", build_app, ready_args(config))], config)
    until(lambda: not running("idle"))
    deadline = time.monotonic() + 120

    def post(_: int) -> httpx.Response:
        """On a new connection, until it is not with an HAProxy that does not know the application yet."""
        url = client.base_url.join("/idle/v1/dynamics")
        while True:
            response = httpx.post(url, json=frame, headers=client.headers, timeout=client.timeout)
            if response.status_code != 404 or time.monotonic() > deadline:
                return response

    with ThreadPoolExecutor(3) as pool:
        responses = list(pool.map(post, range(3)))
    assert [response.status_code for response in responses] == [200] * 3
    assert client.post("/v1/dynamics", json=frame).json()["frames"] == responses[0].json()["frames"]


def running(app: str) -> int:
    """The number of replicas that run."""
    [deployment] = serve.status().applications[app].deployments.values()
    return deployment.replica_states.get(ReplicaState.RUNNING, 0)
