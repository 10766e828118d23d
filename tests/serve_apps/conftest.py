"""A registry with three versions of a tiny model, and a client of a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.ports import free_port
from fer.registry import register
from fer.tracking import TrackingOptions, start_run
from serve_apps.access.api_keys import SCOPES, add_key
from tests.conftest import SHARED_DATA

YUNET = SHARED_DATA / "models" / "face_detection_yunet_2026may.onnx"


@pytest.fixture(scope="session")
def registry(make_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrackingOptions:
    """The model `face`: version 1 is the champion, version 2 the challenger (with valence-arousal), 3 is broken."""
    folder = tmp_path_factory.mktemp("registry")
    tracking = TrackingOptions(storage=str(folder / "runs"), tracking_uri=f"sqlite:///{folder}/mlflow.db")
    run = start_run(tracking, "tests", "tiny")
    register(tracking, run.run_id, make_classifier(folder / "one", "basic"), "face", "champion")
    register(tracking, run.run_id, make_classifier(folder / "two", "basic", head="both"), "face", "challenger")
    broken = make_classifier(folder / "three", "basic")
    (broken / "model.safetensors").write_bytes(b"broken")
    register(tracking, run.run_id, broken, "face", "broken")
    return tracking


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.yaml"


@pytest.fixture(scope="session")
def api_keys(key_file: Path) -> dict[str, str]:
    """Keys of every server: one for nothing but models and their files, and one for one request a minute."""
    return {
        "metadata": add_key(key_file, "metadata", ["metadata"], None),
        "slow": add_key(key_file, "slow", SCOPES, 1),
    }


@pytest.fixture(scope="module")
def server_options(key_file: Path, api_keys: dict[str, str]) -> dict[str, Any]:
    """Options of a server that the tests of one module start: its port, its token, its keys and one replica."""
    return {"port": free_port(), "token": "a token for the tests", "api_keys": str(key_file), "max_replicas": 1}


@pytest.fixture(scope="module")
def client(url: str, server_options: dict[str, Any]) -> Iterator[httpx.Client]:
    """A client, with the token, of the server that the module's fixture ``url`` has started."""
    from ray import serve

    headers = {"Authorization": f"Bearer {server_options['token']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120) as client:
        yield client
    serve.shutdown()


@pytest.fixture(scope="session")
def check_cors() -> Callable[[httpx.Client, str, str], None]:
    """Checks that a server refuses preflights, and lets no page of another origin read a response."""
    origin = {"Origin": "https://elsewhere.example"}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    def check(client: httpx.Client, get: str, post: str) -> None:
        refused = [client.options(path, headers=origin | preflight) for path in (get, post)]
        assert {response.status_code for response in refused} == {405}
        for response in (*refused, client.get(get, headers=origin), client.post(post, headers=origin)):
            assert not [name for name in response.headers if name.startswith("access-control-")]

    return check


@pytest.fixture(scope="module")
def start_live(
    ray_cluster: None,
    server_options: dict[str, Any],
    make_classifier: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., str]]:
    """Starts a server of the bundled model, and of one called `other`, with the application `live`.

    It takes the options of `live`.

    Faces are found by YuNet where its file is, else by OpenCV's cascade.
    """
    from ray import serve

    from jobs.serve import start
    from serve_apps.applications import chosen_apps
    from serve_apps.live.options import LiveConfig
    from serve_apps.options import ServeConfig

    other = make_classifier(tmp_path_factory.mktemp("models") / "other", "basic")

    def start_both(**options: Any) -> str:
        detector = {"detector_model": str(YUNET)} if YUNET.is_file() else {"detector": "haar"}
        config = ServeConfig(apps=["classifier", "live"], models=[str(other)], **server_options, **detector)
        classifier, live = chosen_apps(config)
        args = LiveConfig(api_keys=server_options.get("api_keys"), **options)
        return start([classifier, live._replace(args=args)], config)

    yield start_both
    serve.shutdown()
