"""Which device evaluation and prediction get on a cluster."""

from __future__ import annotations

import pytest
import ray

from fer.errors import UserError
from fer.models.ray_device import cluster_gpus, task_resources


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 60.0})


@pytest.mark.parametrize(("device", "gpus"), [("auto", 4), ("gpu", 4), ("cpu", 0)])
def test_auto_uses_the_gpus_of_a_cluster(four_gpus: None, device: str, gpus: int) -> None:
    assert cluster_gpus(device) == gpus


def test_more_workers_than_gpus_are_refused(four_gpus: None) -> None:
    assert cluster_gpus("auto", workers=4) == 4
    with pytest.raises(UserError, match="--workers 8: the cluster has 4 GPUs; use fewer workers, or --device cpu"):
        cluster_gpus("auto", workers=8)


def test_a_task_waits_for_a_gpu_that_is_in_use_and_says_so(four_gpus: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert task_resources(4) == {"num_cpus": 1, "num_gpus": 1}
    assert "waiting for a GPU." in capsys.readouterr().err
    assert task_resources(0) == {"num_cpus": 1, "num_gpus": 0}
    assert capsys.readouterr().err == ""
