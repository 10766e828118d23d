"""What a run would take: checked by the driver before anything starts, and printed by ``--dry-run``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fer.data.manifest import ShardedDataset
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.grpo.options import GrpoConfig
from fer.grpo.prompts import batches_per_epoch
from fer.grpo.rewards import Scorer
from fer.training.checkpoint import check_resume
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import expected_answer, row_turns
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import DTYPES, load_config, load_processor, set_trainable

_VISUAL = re.compile(r"(image|video|vision)\w*_token_id$")
TEXT_COLUMNS = ["path", "prompt", "response", "answer", "candidate_labels", "followups"]


def check(config: GrpoConfig, model: str, dataset: ShardedDataset) -> int:
    """Raise UserError for what can't run; the longest prompt in tokens, image included."""
    Scorer(config.rewards)
    load_deepspeed_config(config.deepspeed)
    check_resume(config)
    if not batches_per_epoch(dataset, config):
        rows = dataset.split("train").rows
        raise UserError(f"{rows} training rows are less than one batch of --prompts {config.prompts}")
    chat = ChatFormat(load_processor(model, config.trust_remote_code), config, max_tokens=config.max_prompt_tokens)
    longest = 0
    unanswered = 0
    seen: set[str] = set()
    for row in _rows(dataset):
        unanswered += not expected_answer(row)
        text = chat.render_prompt(row_turns(row))
        if text not in seen:
            seen.add(text)
            longest = max(longest, len(chat.tokenizer(text, add_special_tokens=False)["input_ids"]))
    if unanswered:
        raise UserError(f"{config.data} has {unanswered} training rows without an answer: there is nothing to reward")
    longest += _image_tokens(chat, config)
    if longest > config.max_prompt_tokens:
        raise UserError(
            f"the longest prompt has {longest} tokens with its image: raise --max-prompt-tokens "
            f"({config.max_prompt_tokens}) or make images smaller"
        )
    return longest


def _rows(dataset: ShardedDataset) -> Iterator[dict[str, Any]]:
    """The training rows without their images."""
    for shard in dataset.split("train").shards:
        with fsspec.open(dataset.path(shard), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=TEXT_COLUMNS):
                yield from pa.Table.from_batches([batch]).to_pylist()


def _image_tokens(chat: ChatFormat, config: GrpoConfig) -> int:
    """Tokens of the largest image that the options allow."""
    side = config.image_size if config.fixed_size else int((config.max_pixels or 0) ** 0.5)
    text = chat.render_prompt([Turn("?")])
    with_image = chat.collate_prompts([text], [np.zeros((side, side, 3), np.uint8)])["input_ids"].shape[1]
    return with_image - len(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def banned_tokens(config: GrpoConfig, model: str) -> list[int]:
    """Tokens that stand for images and videos: a trainer can't read a completion that has one."""
    settings = load_config(model, config.trust_remote_code).to_dict()
    found = {value for name, value in settings.items() if _VISUAL.search(name) and isinstance(value, int)}
    chat = ChatFormat(load_processor(model, config.trust_remote_code), config, max_tokens=config.max_prompt_tokens)
    return sorted(found | {token for token in chat.image_token_ids if token >= 0})


def describe(config: GrpoConfig, model: str, dataset: ShardedDataset, longest: int) -> str:
    """Placement, batches and an estimate of memory, as a person reads them."""
    gpu = {"cpu": "", "gpu": " and 1 GPU", "auto": " and, where there are enough, 1 GPU"}[config.device]
    batches = batches_per_epoch(dataset, config)
    rows = dataset.split("train").rows
    steps = batches * config.iterations * config.epochs
    passes = config.completions_per_worker // config.batch_size
    lines = [
        "Placement",
        f"  {config.workers} trainer(s) of {config.cpus_per_worker:g} CPU{gpu}, {config.deepspeed}",
        f"  {config.engines} vLLM engine(s) of {config.cpus_per_engine:g} CPU{gpu}",
        "Batches",
        f"  {config.prompts} questions x {config.group_size} completions = {config.prompts * config.group_size} a step",
        f"  {config.prompts_per_worker} x {config.group_size} of them a trainer, in {passes} pass(es) of "
        f"{config.batch_size}",
        f"  {rows} rows = {batches} steps an epoch ({rows - batches * config.prompts} rows over, others each time)",
        f"  {steps} optimizer steps in {config.epochs} epoch(s)",
        f"  prompts of at most {longest} tokens, completions of at most {config.max_completion_tokens}",
        "Memory, estimated",
    ]
    tokens = config.batch_size * (longest + config.max_completion_tokens)
    lines += [f"  {name:<44}{_amount(size):>12}" for name, size in memory(config, model, tokens).items()]
    return "\n".join(lines)


def _amount(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def memory(config: GrpoConfig, model: str, tokens: int) -> dict[str, float]:
    """Bytes that a trainer and an engine take, about; ``tokens``: in one forward pass.

    Mixed precision holds a weight that learns in 2 bytes, its gradient in 2, and its fp32 master and Adam's two moments
    in 12 (Rajbhandari et al., ZeRO, 2020); ZeRO-2 shares out the last two, ZeRO-3 all three.
    """
    from transformers import AutoModelForMultimodalLM

    settings = load_config(model, config.trust_remote_code)
    with torch.device("meta"):
        network = set_trainable(AutoModelForMultimodalLM.from_config(settings), config, config)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    width = DTYPES[config.precision].itemsize
    stage = load_deepspeed_config(config.deepspeed)["zero_optimization"]["stage"]
    shared = config.workers if stage >= 2 else 1
    weights = total * width / (config.workers if stage == 3 else 1)
    text = settings.get_text_config()
    layers = text.num_hidden_layers * (1 if config.grad_checkpointing else 16)
    parts = {
        "trainer: weights": weights,
        "trainer: gradients": learning * width / shared,
        "trainer: optimizer": learning * (12 if width == 2 else 8) / shared,
        "trainer: reference": weights if config.beta and config.lora == "off" else 0.0,
        "trainer: activations": tokens * text.hidden_size * width * layers,
        "trainer: logits, and their gradient": 2 * tokens * text.vocab_size * width,
    }
    heads = text.num_key_value_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    kept = 2 * text.num_hidden_layers * heads * width
    length = config.max_prompt_tokens + config.max_completion_tokens
    return parts | {
        "trainer: in all": sum(parts.values()),
        "engine: weights": total * width,
        "engine: keys and values of a completion": kept * length,
    }
