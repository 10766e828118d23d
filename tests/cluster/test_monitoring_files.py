"""The files for Prometheus and Grafana: their structure, and that they name metrics that exist."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util.metrics import Counter, Gauge, Histogram

from serve_apps.monitoring.metrics import ClassifierMetrics

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana/dashboards/ferry.json").read_text())
ALERTS = yaml.safe_load((CLUSTER / "prometheus/alerts.yaml").read_text())
SUFFIXES: dict[type, tuple[str, ...]] = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}


def queries() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def test_queries_name_metrics_and_tags_that_exist() -> None:
    metrics = [metric for metric in vars(ClassifierMetrics()).values() if isinstance(metric, tuple(SUFFIXES))]
    tags = {
        f"ray_{metric.info['name']}{suffix}": {*metric.info["tag_keys"], "le"}
        for metric in metrics
        for suffix in SUFFIXES[type(metric)]
    }
    for query in queries():
        assert "_sum{" not in query, "Ray passes on a histogram's buckets; its sum is that of their middles"
        for name, filters in re.findall(r"(ray_fer_\w+)(?:{([^}]*)})?", query):
            assert name in tags, query
            assert set(re.findall(r"(\w+)=", filters)) <= tags[name], query


@pytest.mark.parametrize("metric", ["faces", "batch_size", "drift_psi", "shadow_faces", "labelled_faces", "stage_ms"])
def test_the_dashboard_shows_what_ferry_measures(metric: str) -> None:
    assert any(f"ray_fer_{metric}" in query for query in queries())


def test_panels_have_their_own_place_and_number() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_provisioning_names_the_files_that_exist() -> None:
    provisioning = CLUSTER / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://localhost:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards/ferry.yaml").read_text())["providers"]
    assert Path(provider["options"]["path"]).name == "dashboards"
    config = yaml.safe_load((CLUSTER / "prometheus/prometheus.yaml").read_text())
    assert all((CLUSTER / "prometheus" / file).is_file() for file in config["rule_files"])
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    for query in queries():
        assert set(re.findall(r"\$(\w+)", query)) - {"labels", "value"} <= variables
