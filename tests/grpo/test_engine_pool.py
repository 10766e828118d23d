"""The engine pool with a real vLLM engine: rollout groups, weight sync and its check, recovery of a broken transfer."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch

from fer.data.vqa.prompts import ferbench_prompt
from fer.data.vqa.questions import Turn
from fer.grpo.checksums import SyncReport
from fer.grpo.communicator import Deadline, TransferError
from fer.grpo.engine_launch import start_engines, wait_until_ready
from fer.grpo.engine_pool import EnginePool
from fer.grpo.options import GrpoConfig
from fer.grpo.preflight import visual_token_ids
from fer.grpo.rollout import Prompt
from fer.grpo.sync_check import compare_logprobs
from fer.grpo.vllm_engine import RolloutEngine
from fer.grpo.weight_sync import PolicyWeights
from fer.training.worker import Worker
from fer.vlm.chat import ChatFormat
from fer.vlm.model import load_model, load_processor, set_trainable
from fer.vlm.options import ImageOptions, LoraOptions, VlmModelOptions
from fer.vlm.scoring import token_logprobs
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

CPU = torch.device("cpu")
TOKEN_IDS = list(range(300, 324))
"""A fixed completion."""


class CountingEngine(RolloutEngine):
    """Counts how often the image encoder runs, and knows the thread on which vLLM was made."""

    def _start(self, *arguments: Any) -> Any:
        self.made_on = threading.get_ident()
        return super()._start(*arguments)

    async def is_stepped_where_it_was_made(self) -> bool:
        return await self._on_vllm_thread(threading.get_ident) == self.made_on

    async def freeze_at(self, tokens: int) -> None:
        """From now on, stop between two steps once a completion has so many tokens, and let them run over updates."""
        self.frozen_at, self._partial = tokens, True

    async def is_frozen(self) -> bool:
        return self._paused

    def _engine_step(self, new: Any) -> Any:
        finished = super()._engine_step(new)
        counts = [count for request in self._tokens_so_far().values() for count in request.values()]
        if counts and max(counts) == getattr(self, "frozen_at", 0):
            self._paused = True
        return finished

    async def rank_pids(self) -> list[int]:
        return await self._on_vllm_thread(lambda: self.llm.collective_rpc(lambda worker: os.getpid()))

    async def start_counting(self) -> None:
        self.encodings = 0

        def count(*args: Any) -> None:
            self.encodings += 1

        self.llm.apply_model(lambda model: model.visual.register_forward_hook(count) and None)

    async def count_encodings(self) -> int:
        return self.encodings


@dataclass
class Setup:
    """One trainer and one engine, with the same model."""

    pool: EnginePool
    config: GrpoConfig
    folder: str
    chat: ChatFormat
    prompt: Prompt
    masked_token_ids: list[int]

    def load(self, lora: str = "off") -> torch.nn.Module:
        options = VlmModelOptions(precision="fp32", train=self.config.train)
        model = load_model(self.folder, options)
        return set_trainable(model, options, LoraOptions(lora=lora, lora_rank=4, lora_dropout=0)).eval()  # type: ignore[arg-type]

    @torch.no_grad()
    def logprobs(
        self,
        model: torch.nn.Module,
        token_ids: list[int],
        temperature: float = 1.0,
        masked_token_ids: Sequence[int] = (),
    ) -> torch.Tensor:
        """The trainer's log-probabilities of a completion of the prompt."""
        inputs = self.chat.collate_prompts([self.prompt.text], [self.prompt.image])
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(token_ids))], 1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([token_ids])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = model(**inputs).logits[0, -len(token_ids) - 1 : -1]
        masked = torch.tensor(masked_token_ids, dtype=torch.long)
        return token_logprobs(logits, torch.tensor(token_ids), temperature, masked)[0]

    def difference(self, model: torch.nn.Module) -> float:
        """Largest difference between trainer and engine on the fixed completion."""
        [engine] = ray.get(self.pool.actors[0].compute_logprobs.remote(self.prompt, [TOKEN_IDS]))
        return (self.logprobs(model, TOKEN_IDS) - torch.tensor(engine)).abs().max().item()

    def mean_difference(self, model: torch.nn.Module) -> float:
        """Mean over two completions."""
        completions = [TOKEN_IDS, TOKEN_IDS[:5]]
        logprobs = [self.logprobs(model, each) for each in completions]
        return compare_logprobs(self.pool, self.prompt, completions, logprobs)


@pytest.fixture(scope="module")
def setup(tiny_models: Path, ray_cluster: None, process_group: None) -> Iterator[Setup]:
    with running_setup(str(tiny_models / "qwen2.5-vl")) as running:
        yield running


@contextmanager
def running_setup(folder: str, **options: Any) -> Iterator[Setup]:
    config = GrpoConfig(
        data="none",
        precision="fp32",
        max_prompt_tokens=256,
        max_new_tokens=24,
        num_generations=8,
        temperature=0.7,
        **options,
    )
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=56), max_tokens=256)
    image = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    prompt = Prompt(chat.render_prompt([Turn(ferbench_prompt(["happy", "sad"]))]), image)
    masked_token_ids = visual_token_ids(config, folder)
    actors = start_engines(config, folder, masked_token_ids, use_gpu=False, engine=CountingEngine)
    wait_until_ready(0, actors[0], Deadline(240))
    ranks = config.tensor_parallel
    pool = EnginePool(actors, Worker(0, 1, CPU), timeout=240, sync_timeout=120, ranks_per_engine=ranks)
    try:
        yield Setup(pool, config, folder, chat, prompt, masked_token_ids)
    finally:
        for actor in actors:
            ray.kill(actor)


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


def record_reports(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> list[SyncReport]:
    """A list that every sync from now on adds its reports to."""
    reports: list[SyncReport] = []
    check = setup.pool._check_reports

    def record(sent: Mapping[str, int], found: Sequence[SyncReport]) -> int:
        reports.extend(found)
        return check(sent, found)

    monkeypatch.setattr(setup.pool, "_check_reports", record)
    return reports


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
