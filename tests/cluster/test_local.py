"""A cluster that is too small for the job is an error at once."""

import pytest

from cluster.local import connect
from fer.errors import UserError


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_is_too_small_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"needs 64 CPUs .* has 4; use fewer --workers"):
        connect(cpus=64)
