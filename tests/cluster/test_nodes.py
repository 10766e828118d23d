"""Clusters of several nodes: waiting for nodes that start later, and clusters that ask for a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures.nodes import Nodes

pytestmark = pytest.mark.slow

CONNECT = """
import sys
from cluster.local import start_or_join
from cluster.preflight import wait_for_room
from fer.errors import UserError
try:
    start_or_join(cpus=2)
    wait_for_room(2, [], float(sys.argv[1]))
    print("connected", flush=True)
except UserError as error:
    print(error, flush=True)
"""


@pytest.fixture(scope="module")
def nodes(start_nodes: Callable[..., Any]) -> Iterator[Nodes]:
    with start_nodes() as started:
        yield started


def test_a_cluster_without_cpus_is_refused_when_the_time_is_over(nodes: Nodes) -> None:
    output, _ = nodes.run("-c", CONNECT, "2").communicate(timeout=120)
    waiting, refused = [line for line in output.splitlines() if "has 0 of the 2 CPUs that the job needs" in line]
    assert waiting.endswith("or add nodes: waiting 2 s at most for more nodes (--start-timeout)")
    assert refused.endswith("use fewer --workers or a lower --cpus-per-worker, or add nodes")


def test_nodes_that_start_later_are_waited_for(nodes: Nodes) -> None:
    driver = nodes.run("-c", CONNECT, "100")
    assert driver.stdout is not None
    lines = iter(driver.stdout.readline, "")
    assert "waiting 100 s at most for more nodes" in next(line for line in lines if "the cluster has" in line)
    nodes.add(cpus=2)
    assert "connected\n" in list(lines)


def test_a_cluster_with_a_token_says_how_to_give_it(start_nodes: Callable[..., Any]) -> None:
    without, wrong = {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    with start_nodes(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 4) as nodes:
        drivers = [nodes.run("-c", CONNECT, "0", **given) for given in (without, wrong)]
        for driver in drivers:
            output, _ = driver.communicate(timeout=120)
            assert f"the Ray cluster at {nodes.address} asks for a token: set RAY_AUTH_MODE=token" in output
            assert "Traceback" not in output


def test_a_cluster_need_not_have_what_a_ray_of_our_own_would_get(nodes: Nodes) -> None:
    program = "from cluster.local import connect; connect(cpus=2, local_cpus=64); print('connected')"
    output, _ = nodes.run("-c", program).communicate(timeout=120)
    assert "connected\n" in output
