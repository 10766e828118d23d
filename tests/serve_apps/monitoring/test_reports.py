"""Two replicas with a challenger in shadow: metrics, drift, feedback, comparison, promotion and the log of requests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import yaml

from cluster.local import metrics_url
from cluster.ports import free_port
from fer.classifier.reference import Reference
from fer.classifier.spec import ModelSpec
from fer.data.images import encode_png
from fer.models.folder import update_spec
from fer.registry import model_version, register
from fer.tracking import TrackingOptions, start_run
from jobs.__main__ import main
from jobs.serve import start
from serve_apps.applications import chosen_apps
from serve_apps.monitoring.request_log import FILES, log_folder
from serve_apps.options import ServeConfig
from tests.cluster.test_monitoring_files import CLUSTER, queries
from tests.processes import running
from tests.waiting import until

pytestmark = pytest.mark.slow

TOKEN = "a token for the tests"
IMAGES = [
    encode_png(np.kron(pixels, np.ones((8, 8, 1), np.uint8)))
    for pixels in np.random.default_rng(0).integers(0, 255, (60, 5, 5, 3), dtype=np.uint8)
]
REFERENCE = Reference(labels=[100] * 7, confidence_edges=[0.5], confidence=[350, 350])


@pytest.fixture(scope="module")
def tracking(make_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrackingOptions:
    """The model `watched`: version 1 is the champion; version 2, the challenger, has the same weights."""
    folder = tmp_path_factory.mktemp("reports")
    tracking = TrackingOptions(storage=str(folder / "runs"), tracking_uri=f"sqlite:///{folder}/mlflow.db")
    run = start_run(tracking, "tests", "watched")
    for alias in ("champion", "challenger"):
        update_spec(make_classifier(folder / alias, "basic"), ModelSpec, reference=REFERENCE)
        register(tracking, run.run_id, folder / alias, "watched", alias)
    return tracking


@pytest.fixture(scope="module")
def url(ray_cluster: None, tracking: TrackingOptions) -> str:
    config = ServeConfig(
        **tracking.model_dump(), port=free_port(), token=TOKEN, apps=["classifier"], model="models:/watched@champion",
        challenger="models:/watched@challenger", shadow=True, detector="none", device="cpu", min_replicas=2,
        min_confidence=0.999, reload_seconds=600, log_format="json",
    )  # fmt: skip
    return start(chosen_apps(config), config)


@pytest.fixture(scope="module")
def server_options() -> dict[str, Any]:
    return {"token": TOKEN}


@pytest.fixture(scope="module")
def answers(client: httpx.Client) -> list[httpx.Response]:
    """The responses to one request for each image, once the challenger has predicted all of them."""
    sent = [client.post("/v1/predict", content=image, headers={"Content-Type": "image/png"}) for image in IMAGES]
    assert {response.status_code for response in sent} == {200}
    until(lambda: client.get("/v1/comparison").json()["compared"] == len(IMAGES))
    return sent


def label_of(response: httpx.Response) -> str:
    return response.json()["images"][0]["faces"][0]["label"]


def test_reports_are_of_all_replicas(client: httpx.Client, answers: list[httpx.Response]) -> None:
    comparison = client.get("/v1/comparison").json()
    assert comparison["replicas"] == 2
    assert comparison["agreement"]["value"] == 1
    drift = client.get("/v1/drift").json()
    assert drift["replicas"] == 2
    versions = {version["role"]: version for version in drift["versions"]}
    assert [versions[role]["version"] for role in ("champion", "challenger")] == ["1", "2"]
    champion = versions["champion"]
    assert champion["faces"] == len(IMAGES)
    served = {share["label"]: round(share["served"] * len(IMAGES)) for share in champion["shares"]}
    labels = [label_of(response) for response in answers]
    assert served == {label: labels.count(label) for label in served}
    assert champion["labels"]["level"] == "large", "an untrained model predicts few labels"
    assert champion["labels"]["psi"]["value"] > champion["labels"]["chance"] > champion["labels"]["expected"]


def test_feedback_reaches_the_replica_that_answered(client: httpx.Client, answers: list[httpx.Response]) -> None:
    feedback = {"request_id": answers[0].headers["X-Request-ID"], "label": label_of(answers[0])}
    response = client.post("/v1/feedback", json=feedback)
    assert response.status_code == 200
    labelled = {each["role"]: (each["version"], each["correct"]) for each in response.json()["predictions"]}
    assert labelled == {"champion": ("1", True), "challenger": ("2", True)}
    assert client.post("/v1/feedback", json=feedback).status_code == 404
    assert client.post("/v1/feedback", json=feedback | {"request_id": "nobody's"}).status_code == 404
    other = {"request_id": answers[1].headers["X-Request-ID"], "label": "bored"}
    assert "the model has" in client.post("/v1/feedback", json=other).json()["detail"]
    assert client.post("/v1/feedback", json=feedback, headers={"Authorization": ""}).status_code == 401
    assert client.get("/v1/drift", headers={"Authorization": ""}).status_code == 401


def test_the_log_has_a_line_for_each_request(client: httpx.Client, answers: list[httpx.Response]) -> None:
    def read() -> dict[str, dict[str, Any]]:
        lines = "".join(file.read_text() for file in log_folder().glob(FILES)).splitlines(keepends=True)
        return {entry["request_id"]: entry for entry in (json.loads(line) for line in lines if line.endswith("\n"))}

    until(lambda: {response.headers["X-Request-ID"] for response in answers} <= set(read()))  # written after the answer
    entries = read()
    for response in answers:
        entry = entries[response.headers["X-Request-ID"]]
        assert (entry["route"], entry["status"], entry["faces"]) == ("/v1/predict", 200, 1)
        assert (entry["model"], entry["version"], entry["role"]) == ("watched", "1", "champion")
        assert set(entry["timing"]) == {"waiting", "decoding", "detection", "model"}
        assert "labels" not in entry


def test_prometheus_finds_every_metric(client: httpx.Client, answers: list[httpx.Response]) -> None:
    tags = 'model="watched",.*role="champion",.*version="1"'
    expected = [
        *[f'ray_fer_stage_ms_count{{.*stage="{stage}"' for stage in ("waiting", "decoding", "detection", "model")],
        f"ray_fer_batch_size_count{{.*{tags}",
        f"ray_fer_faces_per_image_count{{.*{tags}",
        f'ray_fer_faces_total{{.*label="{label_of(answers[0])}",.*{tags}',
        f"ray_fer_uncertain_faces_total{{.*{tags}",
        'ray_fer_shadow_faces_total{.*agrees="true",.*champion_version="1",.*role="challenger",.*version="2"',
        'ray_fer_labelled_faces_total{.*correct="true",.*role="challenger",.*version="2"',
        f"ray_fer_drift_psi{{.*{tags.replace(',.*role', ',.*of=.labels.,.*role')}",
        'ray_fer_drift_psi_chance{.*of="confidence"',
    ]
    deadline = time.monotonic() + 180
    missing = expected
    while missing:
        assert time.monotonic() < deadline, missing
        time.sleep(1)
        client.post("/v1/predict", content=IMAGES[0], headers={"Content-Type": "image/png"})
        text = httpx.get(metrics_url(), timeout=60).text
        missing = [line for line in expected if not re.search(line, text)]
    counts = re.findall(r'^ray_fer_stage_ms_sum{.*stage="waiting".*} (\S+)$', text, re.MULTILINE)
    assert sum(map(float, counts)) > 0


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_every_query_of_the_dashboard_and_the_alerts_finds_data(
    client: httpx.Client, answers: list[httpx.Response], tmp_path: Path
) -> None:
    prometheus, port = CLUSTER / "prometheus", free_port()
    config = yaml.safe_load((prometheus / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "1s"
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [urlsplit(metrics_url()).netloc]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(prometheus / "alerts.yaml", tmp_path)
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL):
        # Values reach Prometheus ten seconds after they were recorded, and a rate needs two of them.
        deadline = time.monotonic() + 240
        empty = queries()
        while empty:
            assert time.monotonic() < deadline, empty
            feedback = client.post("/v1/predict", content=IMAGES[0], headers={"Content-Type": "image/png"})
            body = {"request_id": feedback.headers["X-Request-ID"], "label": label_of(feedback)}
            time.sleep(1)
            client.post("/v1/feedback", json=body)
            client.post("/v1/predict", json={"images": []})
            empty = [query for query in empty if not result(port, query)]


def result(port: int, query: str) -> list[Any]:
    """The data that a query of the dashboard finds; those of an alert without their limits, and for any error."""
    plain = query.replace("$__rate_interval", "1m").replace("$model", ".*").split(" > ")[0].replace("5..", "...")
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": plain}, timeout=60).json()
    except httpx.ConnectError:  # it is starting
        return []
    assert answer["status"] == "success", answer
    return [each for each in answer["data"]["result"] if each["value"][1] != "NaN"]


def test_a_rule_decides_on_the_promotion(
    client: httpx.Client, url: str, answers: list[httpx.Response], tracking: TrackingOptions,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = ["--tracking-uri", str(tracking.tracking_uri), "--endpoint", url, "--token", TOKEN]

    def promote(rule: str, *more: str) -> int:
        try:
            return main(["promote", "watched", "--if", rule, *options, *more])
        except SystemExit as end:
            return int(str(end.code))

    assert promote("agreement >= 0.5", "--min-answers", "1000") == 1
    assert re.search(r"not shown: .* faces .* at least 1,000 are needed", capsys.readouterr().out)
    assert promote("agreement >= 0.5 and latency <= 0.001 * champion", "--min-answers", "5") == 1
    printed = capsys.readouterr().out
    assert "holds: agreement >= 0.5 (agreement 1, 95% interval" in printed
    assert "not shown: latency <= 0.001 * champion (latency ratio" in printed
    assert "watched version 2 is not promoted" in printed
    assert model_version("models:/watched@champion", tracking) == "1"
    for rule, more, reason in (
        ("agreement", [], "is no comparison"),
        ("agreement >= 0.5", ["--version", "1"], "is watched version 2, not watched version 1"),
        ("agreement >= 0.5", ["--token", "another token, not it"], "status 401; set FER_PROMOTE_TOKEN"),
        ("agreement >= 0.5", ["--endpoint", "http://127.0.0.1:9"], "gives no comparison: .*refused"),
    ):
        assert promote(rule, *more) == 2
        assert re.search(reason, capsys.readouterr().err)
    assert promote("agreement >= 0.5", "--min-answers", "50") == 0
    assert "models:/watched@champion is now version 2 (before: 1)" in capsys.readouterr().out
