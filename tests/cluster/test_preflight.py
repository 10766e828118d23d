"""Nodes that cannot run a job are found before it starts, by name; and the wait for more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import preflight
from tests.processes import environment

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
import fsspec, ray
from ray.cluster_utils import Cluster
import cluster.preflight
from cluster.preflight import check_nodes
from fer.errors import UserError

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
nodes.add_node(num_cpus=1)
ray.init(nodes.address, logging_level="ERROR")
check_nodes(sys.argv[1])
print("accepted", fsspec.filesystem("file").ls(sys.argv[1]))


def refused(storage):
    try:
        check_nodes(storage)
    except UserError as error:
        print("refused:", error)


refused("memory://runs")
cluster.preflight.__version__ = "0.0.1"
refused(sys.argv[1])
"""


@pytest.mark.slow
def test_a_storage_that_a_node_does_not_share_and_another_version_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accepted, memory, version = done.stdout.splitlines()[-3:]
    assert accepted == "accepted []"
    assert "is it this node's own disk?" in memory
    assert "where the driver has 0.0.1" in version


def test_the_request_for_nodes_ends_with_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[list[dict[str, Any]]] = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preflight, "find_problem", lambda cpus, bundles: "2 CPUs are missing")
    monkeypatch.setattr(preflight, "request_resources", lambda bundles, **labels: requested.append(bundles))
    monkeypatch.setattr(preflight.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        preflight.wait_for_room(2, [], 60)
    assert requested == [[{"CPU": 1.0}] * 2, []]
