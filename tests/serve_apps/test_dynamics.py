"""The scorer's server as a client sees it: a real Ray Serve and real HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import httpx
import numpy as np
import pytest

from fer.data.images import encode_png
from fer.data.synthetic.sequence import sequence
from fer.dynamics import flow
from jobs.dynamics_serve import start
from serve_apps.options import DynamicsServeConfig

TOKEN = "a token for the tests"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fer.dynamics.model import DynamicsModel, ScorerSpec, save_model
    from fer.dynamics.options import ScorerOptions

    options = ScorerOptions(backbone="test_resnet")
    folder = tmp_path_factory.mktemp("scorer") / "model"
    save_model(DynamicsModel(options).state_dict(), ScorerSpec(options=options), folder)
    return folder


@pytest.fixture(scope="module")
def landmarker(shared_data: Path) -> str:
    pytest.importorskip("mediapipe", reason="needs the extra `landmarks`")
    return str(shared_data / "models" / "face_landmarker_v2_with_blendshapes.task")


@pytest.fixture(scope="module")
def client(ray_cluster: None, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    from ray import serve

    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = str(tmp_path_factory.mktemp("runs"))
    config = DynamicsServeConfig(
        model=str(model), out_dir=out, port=port, token=TOKEN, max_replicas=1, max_request_bytes=2_000_000, device="cpu"
    )
    url = start(config)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as client:
        yield client
    serve.shutdown()


@pytest.fixture
def frame() -> dict:
    moment = sequence("smile", 2, np.random.default_rng(0))[1]
    return {
        "flow": base64.b64encode(flow.encode(flow.draw(moment.flow() / flow.SIDE))).decode(),
        "expression_landmarks": moment.expression_landmarks.tolist(),
        "baseline_landmarks": moment.baseline_landmarks.tolist(),
    }


def test_a_frame_is_scored(client: httpx.Client, frame: dict) -> None:
    answer = client.post("/v1/dynamics", json=frame)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (scores,) = body["frames"]
    assert 0 <= scores["dynamics"] <= 5
    assert 0 <= scores["synkinesis"] <= 3
    assert scores["dynamics_level"] == int(scores["dynamics"] + 0.5)
    assert "not a diagnosis" in body["notice"]
    assert body["model"]["branch"] == "fusion"
    assert body["model"]["takes_videos"] is False


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"flow": "?"}, 422, "flow is neither base64"),
        ({"flow": base64.b64encode(b"text").decode()}, 422, "not an image"),
        ({"flow": base64.b64encode(encode_png(np.zeros((64, 64, 3), np.uint8))).decode()}, 422, "64x64 pixels"),
        ({"baseline_landmarks": [[0.0, 0.0]] * 146}, 422, "all the same"),
        ({"baseline_landmarks": [[0.0, 0.0]] * 145}, 422, "baseline_landmarks"),
        ({"expression_landmarks": [["x", 0]] * 146}, 422, "expression_landmarks"),
    ],
)
def test_a_faulty_frame_gets_a_reason(client: httpx.Client, frame: dict, change: dict, status: int, told: str) -> None:
    answer = client.post("/v1/dynamics", json=frame | change)
    assert answer.status_code == status
    assert told in answer.json()["detail"]


def test_what_the_server_does_not_take(client: httpx.Client, frame: dict) -> None:
    assert client.post("/v1/dynamics", json=frame, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/v1/dynamics", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post("/v1/dynamics", files={"video": b"x" * 2_100_000}).status_code == 413
    video = client.post("/v1/dynamics", files={"video": b"x"})
    assert video.status_code == 422
    assert "started without --landmarker" in video.json()["detail"]


def test_health_and_documentation(client: httpx.Client) -> None:
    health = client.get("/healthz", headers={"Authorization": ""}).json()
    assert (health["status"], health["reload_error"]) == ("ok", None)
    document = client.get("/openapi.json").json()
    assert "not a diagnosis" in document["info"]["description"]
    assert "/v1/dynamics" in document["paths"]


@pytest.fixture(scope="module")
def scoring(model: Path, landmarker: str, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """What a copy of the model does with a video, without the server around it."""
    from functools import partial

    from fer.dynamics.landmarker import open_landmarker
    from serve_apps.dynamics_scoring import LiveScorer, answer_video

    out = str(tmp_path_factory.mktemp("runs"))
    config = DynamicsServeConfig(
        model=str(model), landmarker=landmarker, out_dir=out, max_frames=100, max_pixels=500_000
    )
    with open_landmarker(landmarker) as opened:
        yield partial(answer_video, loaded=LiveScorer(config).current, landmarker=opened, config=config)


def test_a_video_is_scored_frame_by_frame(scoring, shared_data: Path) -> None:  # type: ignore[no-untyped-def]
    answer = scoring((shared_data / "videos" / "single_face.mp4").read_bytes())
    assert len(answer.frames) == 72
    assert all(0 <= frame.dynamics <= 5 and 0 <= frame.synkinesis <= 3 for frame in answer.frames)
    assert answer.baseline_frame in [frame.frame for frame in answer.frames]
    assert answer.model.takes_videos
    assert "not a diagnosis" in answer.notice


def test_videos_that_cannot_be_scored_get_a_reason(scoring, shared_data: Path) -> None:  # type: ignore[no-untyped-def]
    videos = shared_data / "videos"
    assert "no face was found" in scoring((videos / "no_face.mp4").read_bytes()).reason
    assert "more than 100 frames" in scoring((videos / "two_people.mp4").read_bytes()).reason
    told = scoring(b"no video").reason
    assert "not a video" in told
    assert "/tmp" not in told
