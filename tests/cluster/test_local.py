"""The cluster has what the job needs, or an error says at once what is missing; every worker is set up."""

import gc
import os

import pytest
import ray

from cluster.local import connect, find_interface
from cluster.persistent import StartConfig, command, node_environment
from cluster.serve import serve_ports
from fer.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_a_cluster_that_is_too_small_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"has \d+ of the 4096 CPUs that the job needs .*; use fewer --workers"):
        connect(cpus=4096)


def test_workers_are_set_up_too() -> None:
    threshold = ray.remote(lambda: gc.get_threshold()[0])
    assert ray.get(threshold.remote()) == gc.get_threshold()[0] == 10_000


def test_collectives_use_the_interface_of_the_nodes_address() -> None:
    assert (find_interface("127.0.0.1"), find_interface("192.0.2.1")) == ("lo", None)
    address = ray.util.get_node_ip_address()
    name = ray.remote(lambda: os.environ["GLOO_SOCKET_IFNAME"])
    assert ray.get(name.remote()) == find_interface(address)


def test_two_clusters_of_a_machine_do_not_get_each_others_requests() -> None:
    names = list(serve_ports())
    own = ray.get(ray.remote(lambda: [os.environ[name] for name in names]).remote())
    environment = node_environment(StartConfig())
    persistent = [environment[name] for name in names]
    assert len(names) == 3
    assert not set(own) & set(persistent)
    assert not {"8500", "30000", "31000"} & set(own + persistent), "Ray's defaults, which other programs have"


def test_two_clusters_of_a_machine_have_ports_of_their_own() -> None:
    commands = [command(StartConfig(port=port)) for port in (7001, 7002)]
    for flag in ("--dashboard-agent-listen-port", "--ray-client-server-port"):
        ports = {words[words.index(flag) + 1] for words in commands}
        assert len(ports) == 2
        assert not {"52365", "10001"} & ports
