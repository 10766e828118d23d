"""What an update of a vision-language model costs: its logits, its images, and loading it with ZeRO-3.

Each measurement of memory is a process of its own; times are of pairs in turns.

    python -m benchmarks.vlm_update
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.sft import ModelSizeOptions, make_model
from fer.options import Options, parse


class UpdateBenchmark(Options):
    """Measure memory and time of an update's parts."""

    tokens: int = Field(4096, ge=1, description="Completion tokens of a pass, for the logits")
    width: int = Field(1024, ge=64, multiple_of=64, description="Width of the model")
    vocabulary: int = Field(152_064, ge=1024, description="Vocabulary of the logits")
    rounds: int = Field(8, ge=2, description="Pairs of passes with and without shared images")


def main(config: UpdateBenchmark) -> None:
    import torch

    for chunked in (False, True):
        peak, values = in_process(partial(score, config, chunked))
        print(f"logits {'some at a time' if chunked else 'all at once'}: {peak:.2f} GB, loss {values:.4f}", flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        compare_images(config, Path(scratch))


def peak_gb() -> float:
    """Peak of this process's resident memory. (That of getrusage would include its parent's.)"""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9


def in_process(measure: Callable[[], float]) -> tuple[float, float]:
    """Peak memory in GB that the function adds in a new process, and its result."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        torch.multiprocessing.spawn(_run, (measure, f"{scratch}/out"), nprocs=1)
        return torch.load(f"{scratch}/out")


def _run(rank: int, measure: Callable[[], float], out: str) -> None:
    import torch

    torch.set_num_threads(1)
    before = peak_gb()
    result = measure()
    torch.save((peak_gb() - before, result), out)


def score(config: UpdateBenchmark, chunked: bool) -> float:
    """Loss and gradients of tokens from their hidden states."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from fer.vlm.scoring import LanguageHead, Targets, token_logprobs

    torch.manual_seed(0)
    head = LanguageHead(config.width, config.vocabulary, bias=False)
    hidden = torch.randn(config.tokens, config.width, requires_grad=True)
    ids = torch.randint(0, config.vocabulary, (config.tokens,))
    masked = torch.empty(0, dtype=torch.long)
    if chunked:
        with head.scoring(Targets(ids, 1.0, masked)):
            logprobs = head(hidden)[:, 0]
    else:
        rows = zip(head(hidden).chunk(8), ids.chunk(8), strict=True)  # of 8 completions, each made fp32 on its own
        logprobs = torch.cat(
            [checkpoint(token_logprobs, row, each, 1.0, masked, use_reentrant=False)[0] for row, each in rows]
        )
    loss = -logprobs.mean()
    loss.backward()
    return loss.item()


def compare_images(config: UpdateBenchmark, scratch: Path) -> None:
    """Passes over 8 completions of 64 tokens about one image of 224 x 224 pixels."""
    import numpy as np
    import torch

    from fer.data.vqa.questions import Turn
    from fer.grpo.batch import make_batches
    from fer.grpo.groups import Row
    from fer.grpo.logprobs import batch_logprobs
    from fer.grpo.prompts import PromptExample
    from fer.grpo.rollout import Completion, Prompt
    from fer.vlm.chat import ChatFormat
    from fer.vlm.model import load_model, load_processor, set_trainable
    from fer.vlm.options import ImageOptions, LoraOptions, VlmModelOptions
    from fer.vlm.scoring import install_head
    from fer.vlm.shared_images import share_images

    make_model(ModelSizeOptions(), scratch / "model")
    folder = str(scratch / "model")
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=224), max_tokens=512)
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    text = chat.render_prompt([Turn("Which expression does this face show?")])
    example = PromptExample(Prompt(text, image), chat.collate_prompts([text], [image]), "", "", "")
    rows = [Row(example, Completion("", [300 + i] * 64, [0.0] * 64, truncated=True), 1.0) for i in range(8)]
    for parts in (["vision", "projector", "language"], ["projector", "language"]):
        options = VlmModelOptions(precision="fp32", train=parts)  # type: ignore[arg-type]
        model = set_trainable(load_model(folder, options), options, LoraOptions())
        install_head(model)
        share_images(model)

        def step(share: bool, model: Any = model) -> float:
            [batch] = make_batches(rows, 8, chat.pad_token_id, share)
            started = time.perf_counter()
            masked = torch.empty(0, dtype=torch.long)
            batch_logprobs(model, batch, temperature=1.0, masked_token_ids=masked)[0].sum().backward()
            return time.perf_counter() - started

        step(share=True)
        pairs = [(step(share=False), step(share=True)) for _ in range(config.rounds)]
        ratios = sorted(each / shared for each, shared in pairs)
        times = [statistics.median(times) for times in zip(*pairs, strict=True)]
        print(
            f"8 completions of an image, training {', '.join(parts)}: {times[0]:.2f} s with an image each, "
            f"{times[1]:.2f} s with a shared one; ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} pairs)",
            flush=True,
        )


if __name__ == "__main__":
    main(parse(UpdateBenchmark, sys.argv[1:], "benchmarks.vlm_update"))
