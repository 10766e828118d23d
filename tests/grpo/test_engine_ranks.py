"""Engines of several ranks, and with adapters of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
import ray
import torch

from fer.grpo.weight_sync import PolicyWeights
from tests.fixtures.engine_pool import record_reports, running_setup
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.mark.parametrize("ranks", [1, 2])
def test_vllm_computes_the_adapters(tiny_models: Path, ray_cluster: None, process_group: None, ranks: int) -> None:
    """Those of the image encoder, too. A sync moves the adapters alone."""
    options = {"lora": "lora", "lora_rank": 4, "engine_adapters": "separate", "tensor_parallel": ranks}
    parts = ["vision", "projector", "language"]
    with running_setup(str(tiny_models / "qwen2.5-vl"), train=parts, **options) as setup:
        torch.manual_seed(4)
        model = setup.load("lora")
        weights = PolicyWeights(model, torch.float32, merged=False)
        assert not weights.base
        setup.pool.connect(weights, version=0)
        assert setup.difference(model) < 1e-4, "the adapters are zero"
        for version in (1, 2):
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    parameter.data.copy_(0.2 * torch.randn_like(parameter))
            assert setup.difference(model) > 0.05
            assert setup.pool.sync_weights(weights, version) is not None
            assert setup.difference(model) < 1e-4
        [output] = setup.pool.collect(setup.pool.submit([setup.prompt]), weights)
        for completion in output.completions:
            logprobs = setup.logprobs(model, completion.token_ids, setup.config.temperature, setup.masked_token_ids)
            torch.testing.assert_close(logprobs, torch.tensor(completion.logprobs), rtol=0, atol=1e-4)


def test_an_engine_of_two_ranks(
    tiny_models: Path, ray_cluster: None, process_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a process with a part of the weights. They receive all of them, also after a broken transfer."""
    with running_setup(str(tiny_models / "qwen2.5-vl"), tensor_parallel=2) as setup:
        model = setup.load()
        weights = PolicyWeights(model, torch.float32)
        reports = record_reports(setup, monkeypatch)
        setup.pool.connect(weights, version=0)
        assert setup.difference(model) < 1e-4
        [report] = reports
        print(f"{len(report.received)} weights, {report.compared} compared, {report.not_compared} not")
        assert report.received.keys() == dict(model.named_parameters()).keys()
        assert report.compared >= 20

        torch.manual_seed(5)
        for parameter in model.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))
        assert setup.difference(model) > 0.05
        broken = setup.pool.actors[0].update_weights.remote(1, weights.specs(weights.synced), bucket_bytes=2**20)
        assert setup.pool.communicator is not None
        setup.pool.communicator.abort()
        with pytest.raises(RuntimeError, match="weight transfer"):
            ray.get(broken, timeout=100)
        setup.pool.connect(weights, version=1)
        assert setup.difference(model) < 1e-4
        [output] = setup.pool.collect(setup.pool.submit([setup.prompt]), weights)
        for completion in output.completions:
            logprobs = setup.logprobs(model, completion.token_ids, setup.config.temperature, setup.masked_token_ids)
            torch.testing.assert_close(logprobs, torch.tensor(completion.logprobs), rtol=0, atol=1e-4)


@pytest.mark.faults
def test_a_rank_that_dies_takes_its_engine_along(tiny_models: Path, ray_cluster: None, process_group: None) -> None:
    """It is restarted, also if the first process dies and leaves its ranks alone."""
    with running_setup(str(tiny_models / "qwen2.5-vl"), tensor_parallel=2) as setup:
        model = setup.load()
        weights = PolicyWeights(model, torch.float32)
        setup.pool.connect(weights, version=0)
        [actor] = setup.pool.actors
        for restarts, victim in enumerate(["rank", "engine"], 1):
            ranks, engine = ray.get([actor.rank_pids.remote(), actor.ready.remote()])
            pending = setup.pool.submit([setup.prompt] * 4)
            os.kill(ranks[1] if victim == "rank" else engine, signal.SIGKILL)
            outputs = setup.pool.collect(pending, weights)
            assert [len(output.completions) for output in outputs] == [setup.config.num_generations] * 4
            assert setup.pool.restarts == restarts
            assert setup.difference(model) < 1e-4
            until(lambda old=ranks: not any(map(psutil.pid_exists, old)))
