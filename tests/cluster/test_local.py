"""A cluster that can't hold the job is refused at once, with numbers."""

import pytest

from cluster.local import connect
from fer.errors import UserError


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs 64 CPUs .* has 4; use fewer --workers"):
        connect(cpus=64)
