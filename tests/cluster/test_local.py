"""The cluster has what the job needs, or an error says at once what is missing; every worker is set up."""

import gc
import os

import pytest
import ray

from cluster.local import connect, find_interface
from cluster.persistent import StartConfig, node_environment
from cluster.serve import FALLBACK_PORTS
from fer.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_a_cluster_that_is_too_small_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"has 4 of the 64 CPUs that the job needs .*; use fewer --workers"):
        connect(cpus=64)


def test_workers_are_set_up_too() -> None:
    threshold = ray.remote(lambda: gc.get_threshold()[0])
    assert ray.get(threshold.remote()) == gc.get_threshold()[0] == 10_000


def test_collectives_use_the_interface_of_the_nodes_address() -> None:
    assert (find_interface("127.0.0.1"), find_interface("192.0.2.1")) == ("lo", None)
    address = ray.util.get_node_ip_address()
    name = ray.remote(lambda: os.environ["GLOO_SOCKET_IFNAME"])
    assert ray.get(name.remote()) == find_interface(address)


def test_two_clusters_of_a_machine_do_not_get_each_others_requests() -> None:
    name = "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"
    own = ray.get(ray.remote(lambda: os.environ[name]).remote())
    persistent = node_environment(StartConfig())[name]
    assert own != persistent
    assert {int(own), int(persistent)} <= set(FALLBACK_PORTS)
