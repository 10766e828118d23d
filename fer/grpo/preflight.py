"""Checks of a run before anything starts, and the summary that ``--dry-run`` prints."""

from __future__ import annotations

import re
from collections.abc import Collection
from heapq import nlargest

import numpy as np
import torch

from fer.data.manifest import ShardedDataset
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.grpo.options import GrpoConfig
from fer.grpo.prompts import batches_per_epoch
from fer.grpo.rewards import RewardScorer
from fer.training.checkpoint import check_unfinished
from fer.training.placement import describe
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import expected_answer, row_turns, text_rows
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.memory import estimate_training_memory
from fer.vlm.model import DTYPES, load_config, load_processor

_VISUAL = re.compile(r"(image|video|vision|boi|eoi)\w*_token_(id|index)$")
MAX_RENDERED = 1000
"""Prompts that are rendered and tokenised to find the longest; 360,000 would take minutes."""


def preflight_check(config: GrpoConfig, model: str, dataset: ShardedDataset) -> int:
    """Raise UserError for a run that can't work; return the length of the longest prompt in tokens, image included."""
    RewardScorer(config.rewards)
    load_deepspeed_config(config.deepspeed)
    check_unfinished(config)
    _check_tensor_parallel(config, model)
    if not batches_per_epoch(dataset, config):
        rows = dataset.split("train").rows
        raise UserError(f"{rows} training rows do not fill a batch of --prompts-per-step {config.prompts_per_step}")
    return check_prompts(config, model, dataset, "train", config.data)


def _check_tensor_parallel(config: GrpoConfig, model: str) -> None:
    if config.tensor_parallel == 1:
        return
    settings = load_config(model, config.trust_remote_code)
    text, vision = settings.get_text_config(), getattr(settings, "vision_config", None)
    if vision is None:
        raise UserError(f"{model} is not a vision-language model: it has no image encoder")
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    vision_heads = getattr(vision, "num_heads", None) or vision.num_attention_heads
    fit = [
        n
        for n in range(1, heads + 1)
        if heads % n == vision_heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)  # more ranks: copies
    ]
    if config.tensor_parallel not in fit:
        raise UserError(
            f"--tensor-parallel {config.tensor_parallel}: {model} has {heads} attention heads, {kv_heads} of keys and "
            f"values and {vision_heads} in the image encoder, which vLLM must split evenly: use one of "
            f"{', '.join(map(str, fit))}"
        )


def check_prompts(config: GrpoConfig, model: str, dataset: ShardedDataset, split: str, name: str) -> int:
    """Length of the longest prompt of a split. Raises UserError if it is too long, or if rows have no answer.

    ``name``: of the data, for messages.
    """
    chat = _chat_format(config, model)
    unanswered = 0
    prompts: set[tuple[Turn, ...]] = set()
    for row in text_rows(dataset, split):
        unanswered += not expected_answer(row)
        *earlier, last = row_turns(row)
        prompts.add((*earlier, Turn(last.prompt)))
    if unanswered:
        raise UserError(f"{name} has {unanswered} rows without an answer, which rewards and evaluation need")
    longest = _longest_prompt(chat, prompts) + _max_image_tokens(chat, config)
    if longest > config.max_prompt_tokens:
        raise UserError(
            f"the longest prompt of {name} has {longest} tokens, image included: raise --max-prompt-tokens "
            f"({config.max_prompt_tokens}) or use smaller images"
        )
    return longest


def _chat_format(config: GrpoConfig, model: str) -> ChatFormat:
    processor = load_processor(model, config.trust_remote_code)
    return ChatFormat(processor, config, max_tokens=config.max_prompt_tokens)


def _longest_prompt(chat: ChatFormat, prompts: Collection[tuple[Turn, ...]]) -> int:
    """Tokens of the longest prompt, without its image; of many prompts, only those with the most characters count."""

    def count_characters(turns: tuple[Turn, ...]) -> int:
        return sum(len(turn.prompt) + len(turn.response or "") for turn in turns)

    texts = [chat.render_prompt(turns) for turns in nlargest(MAX_RENDERED, prompts, count_characters)]
    return max(len(chat.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def _max_image_tokens(chat: ChatFormat, config: GrpoConfig) -> int:
    """Tokens of the largest image that the options allow."""
    side = config.image_size if config.fixed_size else int((config.max_pixels or 0) ** 0.5)
    text = chat.render_prompt([Turn("?")])
    with_image = chat.collate_prompts([text], [np.zeros((side, side, 3), np.uint8)])["input_ids"].shape[1]
    return with_image - len(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def visual_token_ids(config: GrpoConfig, model: str) -> list[int]:
    """Placeholder tokens of images and videos. They must not be sampled: a trainer can't encode such a completion."""
    settings = load_config(model, config.trust_remote_code).to_dict()
    ids = {value for name, value in settings.items() if _VISUAL.search(name) and isinstance(value, int)}
    return sorted(ids | {token for token in _chat_format(config, model).image_token_ids if token >= 0})


def dry_run_summary(config: GrpoConfig, model: str, dataset: ShardedDataset, longest_prompt: int) -> str:
    """Placement, batches and a memory estimate, as text."""
    gpu = {"cpu": "", "gpu": " and {}", "auto": " and, if the cluster has enough, {}"}[config.device]
    engine_gpus = describe({"GPU": config.tensor_parallel})
    batches = batches_per_epoch(dataset, config)
    rows = dataset.split("train").rows
    steps = batches * config.num_iterations * config.epochs
    passes = config.completions_per_worker // config.batch_size
    lines = [
        "Placement",
        f"  {config.workers} trainer(s) with {config.cpus_per_worker:g} CPU{gpu.format('1 GPU')} each, "
        f"{config.deepspeed}",
        f"  {config.engines} vLLM engine(s) with {config.cpus_per_engine:g} CPU{gpu.format(engine_gpus)} each",
        *(["  one of each on every GPU"] if config.colocate else []),
        "Batches",
        f"  {config.prompts_per_step} prompts x {config.num_generations} completions = "
        f"{config.prompts_per_step * config.num_generations} completions per step",
        f"  {config.prompts_per_worker} x {config.num_generations} of them per trainer, in {passes} pass(es) of "
        f"{config.batch_size}",
        f"  {rows} rows = {batches} rollout batches per epoch (drops {rows - batches * config.prompts_per_step} rows, "
        "different ones in each epoch)",
        f"  {steps} optimizer steps in {config.epochs} epoch(s)",
        f"  prompts of up to {longest_prompt} tokens, completions of up to {config.max_new_tokens} tokens",
        "Estimated memory",
    ]
    memory = estimate_memory(config, model, longest_prompt)
    lines += [f"  {name:<44}{_format_bytes(size):>12}" for name, size in memory.items()]
    return "\n".join(lines)


def _format_bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def estimate_memory(config: GrpoConfig, model: str, longest_prompt: int) -> dict[str, float]:
    """Estimated bytes on a trainer, with prompts and completions of the greatest lengths, and on an engine's GPU."""
    from transformers import AutoModelForMultimodalLM

    completions = config.batch_size * config.max_new_tokens
    tokens = config.batch_size * longest_prompt + completions
    width = DTYPES[config.precision].itemsize
    trainer = estimate_training_memory(config, model, tokens, completions)
    total = trainer.pop("total")
    trainer["reference model"] = trainer["weights"] if config.beta and config.lora == "off" else 0.0
    settings = load_config(model, config.trust_remote_code)
    with torch.device("meta"):
        sizes = [p.numel() * width for p in AutoModelForMultimodalLM.from_config(settings).parameters()]
    # Two at a time, of a weight each if that is larger. Adapters, which are sent alone, are small.
    buckets = min(2 * max(config.sync_bucket_mb * 2**20, *sizes), sum(sizes)) if config.lora == "off" else 0.0
    trainer["sync buckets"] = buckets
    trainer["total"] = total + trainer["reference model"] + trainer["sync buckets"]
    merges = config.lora != "off" and config.engine_adapters == "merged"
    text = settings.get_text_config()
    # Fewer heads than ranks are copied.
    kv_heads = max(1, text.num_key_value_heads / config.tensor_parallel)
    heads = kv_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    kv_bytes_per_token = 2 * text.num_hidden_layers * heads * width
    return {f"trainer: {name}": size for name, size in trainer.items()} | {
        "engine: weights": sum(sizes) / config.tensor_parallel,
        "engine: sync buckets": buckets,
        **({"engine: base weights on the host": sum(sizes) * config.tensor_parallel} if merges else {}),
        "engine: KV cache per completion": kv_bytes_per_token * (config.max_prompt_tokens + config.max_new_tokens),
    }
