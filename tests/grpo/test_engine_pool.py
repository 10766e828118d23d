"""The engine pool with a real vLLM engine: rollout groups, weight sync and its check, recovery of a broken transfer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from fer.grpo.communicator import TransferError
from fer.grpo.sync_check import compare_logprobs
from fer.grpo.weight_sync import PolicyWeights
from tests.fixtures.engine_pool import TOKEN_IDS, Setup, record_reports, running_setup

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture(scope="module")
def setup(tiny_models: Path, ray_cluster: None, process_group: None) -> Iterator[Setup]:
    with running_setup(str(tiny_models / "qwen2.5-vl")) as running:
        yield running


def test_after_a_sync_the_engine_has_the_trainer_s_weights(setup: Setup) -> None:
    model = setup.load()
    setup.pool.connect(PolicyWeights(model, torch.float32), version=0, cancel_requests=True)
    assert setup.difference(model) < 1e-4
    torch.manual_seed(1)
    for parameter in model.parameters():  # the image encoder's too
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    before = setup.difference(model)
    assert setup.mean_difference(model) > 0.01
    assert setup.pool.sync_weights(PolicyWeights(model, torch.float32), version=1) is not None
    after = setup.difference(model)
    print(f"largest difference of log-probabilities: {before:.3g} before the sync, {after:.3g} after")
    assert before > 0.05
    assert after < 1e-4
    assert setup.mean_difference(model) <= after
    assert ray.get(setup.pool.actors[0].is_stepped_where_it_was_made.remote())


def test_the_longest_completion_of_the_longest_prompt_can_be_compared(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that can't is left out, and goes on with its other requests."""
    weights = PolicyWeights(setup.load(), torch.float32)
    setup.pool.connect(weights, version=1, cancel_requests=True)
    prompt_tokens = setup.chat.collate_prompts([setup.prompt.text], [setup.prompt.image])["input_ids"].shape[1]
    longest = setup.config.max_prompt_tokens + setup.config.max_new_tokens - prompt_tokens
    completion = [*TOKEN_IDS * longest][:longest]
    logprobs = torch.zeros(longest + 1)
    assert compare_logprobs(setup.pool, setup.prompt, [completion], [logprobs[:longest]]) > 0
    assert math.isnan(compare_logprobs(setup.pool, setup.prompt, [[*completion, 300]], [logprobs]))
    assert "engine 0 did not compute log-probabilities: " in capsys.readouterr().out
    [output] = setup.pool.collect(setup.pool.submit([setup.prompt]), weights)
    assert len(output.completions) == setup.config.num_generations


def test_each_sync_is_compared_with_what_the_engine_holds(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    model = setup.load()
    weights = PolicyWeights(model, torch.float32)
    reports = record_reports(setup, monkeypatch)
    setup.pool.connect(weights, version=1)
    [report] = reports
    print(f"{len(report.received)} weights, {report.compared} compared, {report.not_compared} not")
    assert report.received.keys() == dict(model.named_parameters()).keys()
    assert report.problems == []
    assert report.compared >= 20, "norms, biases and embeddings; CPUs pack the weights of linear layers"


def test_a_group_encodes_its_image_once_and_has_the_trainer_s_logprobs(setup: Setup) -> None:
    model = setup.load()
    weights = PolicyWeights(model, torch.float32)
    setup.pool.connect(weights, version=2)
    actor = setup.pool.actors[0]
    ray.get(actor.start_counting.remote())
    [output] = setup.pool.collect(setup.pool.submit([setup.prompt]), weights)
    assert ray.get(actor.count_encodings.remote()) == 1, "eight completions, one image"
    assert output.weight_versions == [[2] * len(each.token_ids) for each in output.completions]
    assert len(output.completions) == setup.config.num_generations
    inputs = setup.chat.collate_prompts([setup.prompt.text], [setup.prompt.image])
    assert output.prompt_token_ids == inputs["input_ids"][0].tolist()
    for completion in output.completions:
        assert not set(completion.token_ids) & set(setup.masked_token_ids)
        logprobs = setup.logprobs(model, completion.token_ids, setup.config.temperature, setup.masked_token_ids)
        torch.testing.assert_close(logprobs, torch.tensor(completion.logprobs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lora", ["lora", "dora"])
def test_a_sync_sends_only_the_adapters(setup: Setup, lora: str) -> None:
    torch.manual_seed(2)
    model = setup.load(lora)
    weights = PolicyWeights(model, torch.float32)
    setup.pool.connect(weights, version=3)
    assert setup.difference(model) < 1e-4
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    assert setup.difference(model) > 0.05
    assert setup.pool.sync_weights(weights, version=4) is not None
    assert setup.difference(model) < 1e-4


def test_connect_recovers_from_a_broken_transfer(setup: Setup) -> None:
    """A trainer that dies after the first weights leaves a half-updated engine; the next trainer sends all weights."""
    model = setup.load()
    weights = PolicyWeights(model, torch.float32)
    setup.pool.connect(weights, version=5)
    actor, specs = setup.pool.actors[0], weights.specs(weights.synced)
    broken = actor.update_weights.remote(6, specs, bucket_bytes=2**20)
    assert setup.pool.communicator is not None
    setup.pool.communicator.abort()
    setup.pool.communicator = None
    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(broken, timeout=200)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    setup.pool.connect(weights, version=6, cancel_requests=True)
    assert setup.difference(model) < 1e-4


def test_completions_go_on_with_new_weights(setup: Setup) -> None:
    """Each token has the version that sampled it, and its log-probability under that version; the image's, too."""
    old = setup.load()
    weights = PolicyWeights(old, torch.float32)
    setup.pool.connect(weights, version=7)
    actor = setup.pool.actors[0]
    ray.get(actor.freeze_at.remote(6))
    pending = setup.pool.submit([setup.prompt, setup.prompt])
    while not ray.get(actor.is_frozen.remote()):
        time.sleep(0.05)
    new = setup.load()
    torch.manual_seed(3)
    for parameter in new.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    setup.pool.pause()
    assert setup.pool.sync_weights(PolicyWeights(new, torch.float32), version=8) is not None
    outputs = setup.pool.collect(pending, weights)
    differences: dict[tuple[int, str], list[torch.Tensor]] = {}
    for output in outputs:
        for completion, versions in zip(output.completions, output.weight_versions, strict=True):
            ids = completion.token_ids
            old_tokens = versions.count(7)
            assert versions == [7] * old_tokens + [8] * (len(ids) - old_tokens)
            assert old_tokens in (5, 6, len(ids)), "the second prompt is a step behind"
            for name, model in {"old": old, "new": new}.items():
                logprobs = setup.logprobs(model, ids, setup.config.temperature, setup.masked_token_ids)
                difference = (logprobs - torch.tensor(completion.logprobs)).abs()
                for version in (7, 8):
                    differences.setdefault((version, name), []).append(difference[torch.tensor(versions) == version])
    largest = {key: torch.cat(values).max().item() for key, values in differences.items()}
    print("largest differences of log-probabilities, by version of a token and model:", largest)
    assert max(largest[7, "old"], largest[8, "new"]) < 1e-4
    assert min(largest[7, "new"], largest[8, "old"]) > 0.05


def test_an_engine_that_was_restarted_refuses_weights() -> None:
    """It has no connection: the trainers must open a new one."""
    from fer.grpo.vllm_weight_transfer import ProcessGroupTransfer, UpdateInfo

    transfer = ProcessGroupTransfer.__new__(ProcessGroupTransfer)
    transfer.communicator = None
    with pytest.raises(TransferError, match="it was restarted"):
        transfer.receive_weights(UpdateInfo([], bucket_bytes=1))
