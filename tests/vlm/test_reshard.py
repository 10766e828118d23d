"""Training continues on another number of workers: optimizer and weights are the same bits, and so is the next step."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from fer.vlm.reshard import Part, parts_of_vectors, parts_of_weights
from fer.vlm.tiny import build_tiny

KINDS = {2: "bf16", 3: "fp32"}
"""ZeRO's stages, and the precision that each is tested with."""
STEPS = 2


def session(rank: int, workers: int, folder: str, loads: str | None, name: str) -> None:
    """Two steps, or what another session saved; a checkpoint; and one more step. Of both stages."""
    from fer.vlm.deepspeed import TAG, init_engine, load_deepspeed_config, save_engine_state
    from fer.vlm.model import load_model, prepare_for_training, set_trainable
    from fer.vlm.options import LoraOptions, VlmModelOptions
    from fer.vlm.reshard import load_other_workers_state
    from fer.vlm.scoring import install_head
    from fer.vlm.shared_images import share_images

    root = Path(folder)
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(root / f"store-{name}"), workers), rank=rank, world_size=workers
    )
    for stage, precision in KINDS.items():
        options = VlmModelOptions(precision=precision)  # type: ignore[arg-type]
        config = load_deepspeed_config(f"zero{stage}", bf16=precision == "bf16", lr=1e-2, weight_decay=0.1)
        model = set_trainable(load_model(str(root / "qwen3-vl"), options), options, LoraOptions())
        share_images(model)
        install_head(model)
        engine = init_engine(
            prepare_for_training(model, grad_checkpointing=True),
            config,
            partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0),
            torch.device("cpu"),
        )
        if loads is None:
            for number in range(STEPS):
                take_step(engine, str(root / "qwen3-vl"), number)
        else:
            load_other_workers_state(engine, root / f"{loads}-{stage}" / TAG)
        state = full_state(engine)
        save_engine_state(engine, root / f"{name}-{stage}", adapters_only=False)
        loss = take_step(engine, str(root / "qwen3-vl"), STEPS)
        outcome = {"state": state, "loss": loss, "after": full_state(engine)}
        if rank == 0:
            torch.save(outcome, root / f"{name}-{stage}.pt")
        engine.destroy()
    dist.destroy_process_group()


def take_step(engine: Any, model: str, number: int) -> float:
    """An optimizer step on four completions about two images, whatever the number of workers; the loss."""
    from fer.data.vqa.questions import Turn
    from fer.grpo.batch import make_batches
    from fer.grpo.groups import Row
    from fer.grpo.logprobs import batch_logprobs
    from fer.grpo.prompts import PromptExample
    from fer.grpo.rollout import Completion, Prompt
    from fer.vlm.chat import ChatFormat
    from fer.vlm.model import load_processor
    from fer.vlm.options import ImageOptions

    chat = ChatFormat(load_processor(model), ImageOptions(image_size=64), max_tokens=256)
    rows = []
    for i in range(2):
        image = np.random.default_rng((number, i)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        text = chat.render_prompt([Turn("Which expression?")])
        example = PromptExample(Prompt(text, image), chat.collate_prompts([text], [image]), "", "", "")
        for start in (300, 320):
            rows.append(Row(example, Completion("", [start + i, start + 2, 330], [0.0] * 3, truncated=False), 1.0))
    workers = dist.get_world_size()
    share = rows[dist.get_rank() * 4 // workers : (dist.get_rank() + 1) * 4 // workers]
    [batch] = make_batches(share, 4, chat.pad_token_id, share_images=True)
    logprobs, _ = batch_logprobs(engine, batch, temperature=1.0, masked_token_ids=torch.empty(0, dtype=torch.long))
    loss = -logprobs[batch.mask].sum() / 12
    engine.backward(loss * workers)
    engine.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item()


def full_state(engine: Any) -> dict[str, torch.Tensor]:
    """The fp32 weights, moments and steps of what is trained. Collective."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 2:
        # It does so after the step of the first group, when the other has no state yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    state = {}
    for name, weight in engine.module.named_parameters():
        if weight.requires_grad:
            state[name] = safe_get_full_fp32_param(weight).clone()
            for key in ("exp_avg", "exp_avg_sq"):
                state[f"{name} {key}"] = safe_get_full_optimizer_state(weight, key).clone()
    return state


def test_parts_of_vectors_and_of_weights() -> None:
    class Address:
        def __init__(self, start: int, numel: int) -> None:
            self.start, self.numel = start, numel

    first, second = [{"a": Address(0, 6), "b": Address(6, 2)}], [{"b": Address(0, 5)}]
    assert parts_of_vectors([first, second]) == [
        [Part("a", 0, 0, 6, 0), Part("b", 0, 6, 2, 0)],
        [Part("b", 0, 0, 5, 2)],
    ]
    assert parts_of_weights([[("a", 5), ("b", 2)], [("c", 1)]], 2) == [
        [Part("a", 0, 0, 3, 0), Part("b", 0, 3, 1, 0), Part("c", 1, 0, 1, 0)],
        [Part("a", 0, 0, 3, 3), Part("b", 0, 3, 1, 1), Part("c", 1, 0, 1, 1)],
    ]


@pytest.mark.slow
def test_training_continues_on_one_worker_and_again_on_two(tmp_path: Path) -> None:
    build_tiny("qwen3-vl", tmp_path)
    plan: list[tuple[int, str | None, str]] = [(2, None, "two"), (1, "two", "one"), (2, "one", "again")]
    for workers, loads, name in plan:
        torch.multiprocessing.spawn(session, (workers, str(tmp_path), loads, name), nprocs=workers)
    for stage, precision in KINDS.items():
        two, one, again = (torch.load(tmp_path / f"{name}-{stage}.pt") for _, _, name in plan)
        assert two["state"].keys() == one["state"].keys() == again["state"].keys()
        assert any(value.abs().max() > 0 for name, value in two["state"].items() if "exp_avg_sq" in name)
        for name, value in two["state"].items():
            assert torch.equal(value, one["state"][name]), name
            assert torch.equal(value, again["state"][name]), name
        rounding = 1e-5 if precision == "fp32" else 2e-2
        for other in (one, again):
            assert other["loss"] == pytest.approx(two["loss"], rel=rounding)
            if precision == "fp32":
                for name, value in two["after"].items():
                    torch.testing.assert_close(other["after"][name], value, rtol=1e-3, atol=1e-3)
