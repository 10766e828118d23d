"""How many replicas serve a model."""

from __future__ import annotations

import pytest
import ray

from serve_apps import deployment
from serve_apps.deployment import replica_range
from serve_apps.options import ServerOptions


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
