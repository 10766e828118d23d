"""Asking a vision-language model: one behind an OpenAI-compatible endpoint, or one that vLLM runs in this process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from fer.errors import UserError

ENDPOINT_RETRIES = 6
"""Times that a request is sent again when the endpoint is busy or breaks off, ever later."""


@dataclass(frozen=True)
class Ask:
    """A question about an image, and how it is to be answered."""

    image: bytes
    """Encoded."""
    prompt: str


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: temperature 0 is greedy; ``tokens`` is the longest answer."""

    temperature: float
    tokens: int
    seed: int = 0


class Answerer(Protocol):
    """Whoever answers questions."""

    def __call__(self, asks: Sequence[Ask], sampling: Sampling) -> list[str]:
        """One answer to each."""
        ...


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; the key is in OPENAI_API_KEY."""

    def __init__(self, url: str, model: str, concurrency: int) -> None:
        self.url, self.model, self.concurrency = url, model, concurrency

    def __call__(self, asks: Sequence[Ask], sampling: Sampling) -> list[str]:
        """Raises UserError where the endpoint can't be reached, or refuses."""
        return asyncio.run(self._all(asks, sampling))

    async def _all(self, asks: Sequence[Ask], sampling: Sampling) -> list[str]:
        from openai import APIConnectionError, APIStatusError, AsyncOpenAI

        slots = asyncio.Semaphore(self.concurrency)
        key = os.environ.get("OPENAI_API_KEY") or "none"
        async with AsyncOpenAI(base_url=self.url, api_key=key, max_retries=ENDPOINT_RETRIES) as client:

            async def one(number: int, ask: Ask) -> str:
                async with slots:
                    done = await client.chat.completions.create(
                        model=self.model,
                        messages=[{"role": "user", "content": _content(ask)}],
                        temperature=sampling.temperature,
                        max_tokens=sampling.tokens,
                        seed=sampling.seed + number,
                    )
                return done.choices[0].message.content or ""

            try:
                return await asyncio.gather(*(one(i, ask) for i, ask in enumerate(asks)))
            except APIConnectionError:
                raise UserError(f"--endpoint {self.url} can't be reached") from None
            except APIStatusError as error:
                raise UserError(f"--endpoint {self.url} refused ({error.status_code}): {error.message}") from None


def _content(ask: Ask) -> list[dict[str, Any]]:
    kind = Image.open(io.BytesIO(ask.image)).get_format_mimetype()
    url = f"data:{kind};base64,{base64.b64encode(ask.image).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": ask.prompt}]


class Engine:
    """A model that vLLM runs in this process, on its GPUs or CPUs."""

    def __init__(self, model: str, *, trust_remote_code: bool = False, **arguments: Any) -> None:
        import torch

        if not torch.cuda.is_available():
            on_cpu()
            arguments = {"enforce_eager": True, "skip_mm_profiling": True} | arguments
        from vllm import LLM

        self.llm = LLM(
            model=model,
            limit_mm_per_prompt={"image": 1, "video": 0},
            trust_remote_code=trust_remote_code,
            disable_log_stats=True,
            **arguments,
        )

    def __call__(self, asks: Sequence[Ask], sampling: Sampling) -> list[str]:
        from vllm import SamplingParams

        params = [
            SamplingParams(temperature=sampling.temperature, max_tokens=sampling.tokens, seed=sampling.seed + i)
            for i in range(len(asks))
        ]
        outputs = self.llm.generate([self._request(ask) for ask in asks], params, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]

    def _request(self, ask: Ask) -> dict[str, Any]:
        """Images are named by their content, so that several questions about one share its encoding."""
        from fer.vlm.chat import chat_prompt

        return {
            "prompt": chat_prompt(self.llm.get_tokenizer(), ask.prompt),
            "multi_modal_data": {"image": Image.open(io.BytesIO(ask.image)).convert("RGB")},
            "multi_modal_uuids": {"image": hashlib.sha256(ask.image).hexdigest()},
        }


def on_cpu() -> None:
    """What vLLM's CPU build needs of the environment to run in this process; before vllm is imported."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_CI_ENV": "1",
        "VLLM_PLUGINS": "",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
