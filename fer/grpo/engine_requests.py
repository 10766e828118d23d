"""Requests as vLLM takes them, and what it returns."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from fer.grpo.rollout import Completion, Prompt, RolloutOutput, token_versions


@dataclass
class EngineRequest:
    """A request to vLLM."""

    inputs: dict[str, Any]
    sampling: dict[str, Any]
    """Arguments of vLLM's SamplingParams."""
    output: asyncio.Future[Any]
    """vLLM's."""
    history: list[tuple[int, dict[int, int]]] = field(default_factory=list)
    """See `token_versions`."""


def image_inputs(prompt: Prompt) -> dict[str, Any]:
    """The image for vLLM, named by its content so that equal images are encoded once."""
    digest = hashlib.sha256(prompt.image.tobytes()).hexdigest()
    return {
        "multi_modal_data": {"image": Image.fromarray(prompt.image)},
        "multi_modal_uuids": {"image": f"{digest}-{prompt.image.shape}"},
    }


def rollout_output(output: Any, history: Sequence[tuple[int, dict[int, int]]]) -> RolloutOutput:
    """vLLM's output of a request with this history."""
    completions = [
        Completion(
            text=each.text,
            token_ids=list(each.token_ids),
            logprobs=[
                candidates[token].logprob for candidates, token in zip(each.logprobs, each.token_ids, strict=True)
            ],
            truncated=each.finish_reason == "length",
        )
        for each in output.outputs
    ]
    versions = [token_versions(history, each.index, len(each.token_ids)) for each in output.outputs]
    return RolloutOutput(list(output.prompt_token_ids), completions, versions)
