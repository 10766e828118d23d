"""The cluster has what the job needs, or an error says at once what is missing; every worker is set up."""

import gc

import pytest
import ray

from cluster.local import connect
from fer.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_cluster_that_is_too_small_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"needs 64 CPUs .* has 4; use fewer --workers"):
        connect(cpus=64)


def test_workers_are_set_up_too() -> None:
    threshold = ray.remote(lambda: gc.get_threshold()[0])
    assert ray.get(threshold.remote()) == gc.get_threshold()[0] == 10_000
