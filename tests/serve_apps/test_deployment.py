"""How many replicas an application has, and what each of them reserves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from pydantic import ValidationError

from fer.errors import UserError
from serve_apps import deployment
from serve_apps.applications import App, cpus_at_least, cpus_at_most
from serve_apps.deployment import _gpus_per_replica, autoscaling, replica_range
from serve_apps.options import ServeConfig, ServerOptions


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The resources of a cluster with two GPUs, which a test may change."""
    resources = {"CPU": 8.0, "GPU": 2.0}
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    monkeypatch.setattr(deployment, "cpu_count", lambda: 4)
    return resources


def test_an_exported_model_reserves_no_gpu(
    cluster: dict[str, float], make_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    in_torch = str(make_classifier(tmp_path / "model", "basic"))
    exported = "ferry-small"
    expected = {
        (in_torch, "auto"): 1, (in_torch, "gpu"): 1, (in_torch, "cpu"): 0,
        (exported, "auto"): 0, (exported, "gpu"): 1, (exported, "cpu"): 0,
    }  # fmt: skip
    found = {(model, device): _gpus_per_replica(ServeConfig(model=model, device=device)) for model, device in expected}  # type: ignore[arg-type]
    assert found == expected


def test_replicas_can_share_a_gpu(cluster: dict[str, float]) -> None:
    assert _gpus_per_replica(ServeConfig(device="gpu", gpus_per_replica=0.5)) == 0.5
    assert _gpus_per_replica(ServeConfig(device="cpu", gpus_per_replica=0.5)) == 0
    with pytest.raises(ValidationError, match="gpus_per_replica"):
        ServeConfig(gpus_per_replica=1.5)


def test_without_gpus_none_is_reserved_and_requiring_one_is_a_user_error(cluster: dict[str, float]) -> None:
    del cluster["GPU"]
    assert _gpus_per_replica(ServeConfig()) == 0
    with pytest.raises(UserError, match="the cluster has no GPU"):
        _gpus_per_replica(ServeConfig(device="gpu"))


@pytest.mark.parametrize(
    ("options", "gpus", "expected"),
    [
        ({}, 0, (4, 4)),
        ({}, 1, (2, 2)),
        ({}, 0.5, (4, 4)),
        ({}, 0.4, (4, 4)),  # a GPU has room for two, and a fifth of it is left
        ({"cpus_per_replica": 8}, 0, (1, 1)),
        ({"min_replicas": 1}, 0, (1, 4)),
        ({"max_replicas": 2}, 0, (2, 2)),
        ({"min_replicas": 0}, 0, (0, 4)),
        ({"min_replicas": 0, "max_replicas": 1}, 0, (0, 1)),
    ],
)
def test_the_number_of_replicas(
    options: dict[str, Any], gpus: float, expected: tuple[int, int], cluster: dict[str, float]
) -> None:
    assert replica_range(ServeConfig(**options), gpus) == expected


def test_one_replica_starts_even_if_none_has_to_run(cluster: dict[str, float]) -> None:
    assert autoscaling(0, 4, 8)["initial_replicas"] == 1
    assert autoscaling(2, 4, 8)["initial_replicas"] == 2
    apps = [
        App("a", "/", None, ServeConfig(min_replicas=0)),  # type: ignore[arg-type]
        App("b", "/b", None, ServeConfig(min_replicas=3, cpus_per_replica=2)),  # type: ignore[arg-type]
        App("c", "/c", None, ServeConfig()),  # type: ignore[arg-type]
        App("d", "/d", None, ServeConfig(min_replicas=1, max_replicas=5)),  # type: ignore[arg-type]
    ]
    assert cpus_at_least(apps) == 1 + 6 + 1 + 1
    assert cpus_at_most(apps, replicas=4) == 4 + 8 + 4 + 5


@pytest.mark.parametrize(
    ("machine", "cluster", "options", "replicas"),
    [
        (4, 5, {}, (4, 4)),  # a Ray of our own: one CPU more than the machine
        (4, 4, {}, (3, 3)),  # a cluster of one node, one CPU of which is for the rest of the server
        (4, 1, {}, (1, 1)),
        (64, 16, {"cpus_per_replica": 3}, (5, 5)),
        (4, 4, {"min_replicas": 2, "max_replicas": 6}, (2, 6)),
    ],
)
def test_replicas_fit_beside_the_rest_of_the_server(
    machine: int, cluster: int, options: dict[str, float], replicas: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "cpu_count", lambda: machine)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cluster)})
    assert replica_range(ServerOptions(model="m", **options), gpus=0) == replicas
