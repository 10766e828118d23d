"""A real vLLM engine in an actor: it samples groups, takes new weights, and is proven to have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist

from fer.data.vqa.prompts import ferbench_prompt
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.grpo.engine_pool import Engines, await_start, start_engines
from fer.grpo.loss import token_logprobs
from fer.grpo.options import GrpoConfig
from fer.grpo.preflight import banned_tokens
from fer.grpo.vllm_engine import Prompt, RolloutEngine
from fer.grpo.weight_sync import Policy
from fer.training.worker import Worker
from fer.vlm.chat import ChatFormat
from fer.vlm.model import load_model, load_processor, set_trainable
from fer.vlm.options import ImageOptions, LoraOptions, VlmModelOptions

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

CPU = torch.device("cpu")
GIVEN = list(range(300, 324))
"""Tokens of a fixed completion."""


class Counting(RolloutEngine):
    """Counts how often the image encoder runs."""

    async def count_encodings(self) -> None:
        self.encodings = 0

        def counted(*arguments: Any) -> None:
            self.encodings += 1

        self.llm.apply_model(lambda model: model.visual.register_forward_hook(counted) and None)

    async def encoded(self) -> int:
        return self.encodings


@dataclass
class Both:
    """One trainer and one engine, with the same model."""

    engines: Engines
    config: GrpoConfig
    folder: str
    chat: ChatFormat
    prompt: Prompt
    banned: list[int]

    def load(self, lora: str = "off") -> torch.nn.Module:
        options = VlmModelOptions(precision="fp32")
        model = load_model(self.folder, options)
        return set_trainable(model, options, LoraOptions(lora=lora, lora_rank=4, lora_dropout=0)).eval()  # type: ignore[arg-type]

    @torch.no_grad()
    def logps(
        self, model: torch.nn.Module, tokens: list[int], temperature: float = 1.0, banned: Sequence[int] = ()
    ) -> torch.Tensor:
        """The trainer's log-probabilities of a completion of the prompt."""
        inputs = self.chat.collate_prompts([self.prompt.text], [self.prompt.image])
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(tokens))], 1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = model(**inputs).logits[0, -len(tokens) - 1 : -1]
        return token_logprobs(logits, torch.tensor(tokens), temperature, torch.tensor(banned, dtype=torch.long))[0]

    def difference(self, model: torch.nn.Module) -> float:
        """Largest difference between trainer and engine on the fixed completion."""
        theirs = torch.tensor(ray.get(self.engines.actors[0].score.remote(self.prompt, GIVEN)))
        return (self.logps(model, GIVEN) - theirs).abs().max().item()


@pytest.fixture(scope="module")
def both(tiny_models: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = str(tiny_models / "qwen2.5-vl")
    config = GrpoConfig(
        data="none", precision="fp32", max_prompt_tokens=256, max_completion_tokens=24, group_size=8, temperature=0.7
    )
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=56), max_tokens=256)
    image = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    prompt = Prompt(chat.render_prompt([Turn(ferbench_prompt(["happy", "sad"]))]), image)
    banned = banned_tokens(config, folder)
    actors = start_engines(config, folder, banned, use_gpu=False, engine=Counting)
    await_start(0, actors[0], 240)
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", store=dist.FileStore(str(store), 1), rank=0, world_size=1)
    yield Both(Engines(actors, Worker(0, 1, CPU), timeout=240), config, folder, chat, prompt, banned)
    dist.destroy_process_group()
    for actor in actors:
        ray.kill(actor)


def test_after_a_sync_the_engine_has_the_trainer_s_weights(both: Both) -> None:
    model = both.load()
    both.engines.connect(Policy(model, torch.float32), version=0, fresh=True)
    assert both.difference(model) < 1e-4
    torch.manual_seed(1)
    for parameter in model.parameters():  # the image encoder's too
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    before = both.difference(model)
    with pytest.raises(UserError, match="weights of step 0 did not arrive"):
        both.engines.check(both.prompt, GIVEN, both.logps(model, GIVEN), tolerance=0.01)
    assert both.engines.sync(Policy(model, torch.float32), version=1) is not None
    after = both.difference(model)
    print(f"largest difference of log-probabilities: {before:.3g} before the sync, {after:.3g} after")
    assert before > 0.05
    assert after < 1e-4
    assert both.engines.check(both.prompt, GIVEN, both.logps(model, GIVEN), tolerance=0.01) <= after


def test_a_group_shares_its_image_and_its_log_probabilities_are_the_trainer_s(both: Both) -> None:
    model = both.load()
    policy = Policy(model, torch.float32)
    both.engines.connect(policy, version=2)
    actor = both.engines.actors[0]
    ray.get(actor.count_encodings.remote())
    [group] = both.engines.collect(both.engines.ask([both.prompt]), policy)
    assert ray.get(actor.encoded.remote()) == 1, "eight completions, one image"
    assert group.version == 2
    assert len(group.completions) == both.config.group_size
    assert (
        group.prompt_tokens
        == both.chat.collate_prompts([both.prompt.text], [both.prompt.image])["input_ids"][0].tolist()
    )
    for sampled in group.completions:
        assert not set(sampled.tokens) & set(both.banned)
        mine = both.logps(model, sampled.tokens, both.config.temperature, both.banned)
        torch.testing.assert_close(mine, torch.tensor(sampled.logps), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lora", ["lora", "dora"])
def test_adapters_travel_alone(both: Both, lora: str) -> None:
    torch.manual_seed(2)
    model = both.load(lora)
    policy = Policy(model, torch.float32)
    both.engines.connect(policy, version=3)
    assert both.difference(model) < 1e-4
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    assert both.difference(model) > 0.05
    assert both.engines.sync(policy, version=4) is not None
    assert both.difference(model) < 1e-4


def test_a_transfer_that_breaks_off_is_made_good(both: Both) -> None:
    """A trainer that dies after the first weights leaves a half-updated engine, which its successor heals."""
    model = both.load()
    policy = Policy(model, torch.float32)
    both.engines.connect(policy, version=5)
    actor, metas = both.engines.actors[0], policy.metas(policy.news)
    lost = actor.update.remote(6, metas)
    both.engines.group.shutdown()
    both.engines.group = None
    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(lost, timeout=60)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    both.engines.connect(policy, version=6, fresh=True)
    assert both.difference(model) < 1e-4
