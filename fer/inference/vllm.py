"""A vision-language model that vLLM runs in this process."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from PIL import Image

from fer.inference.base import Answer, Answerer, Ask, Sampling

IN_FLIGHT = 256
"""Questions that an engine has at a time; it joins as many of them in a batch as its memory allows."""


class Engine(Answerer):
    """A model that vLLM runs in this process, on its GPUs or CPUs."""

    def __init__(self, model: str, *, trust_remote_code: bool = False, **arguments: Any) -> None:
        import torch

        if not torch.cuda.is_available():
            on_cpu()
            arguments = {"enforce_eager": True, "skip_mm_profiling": True} | arguments
        from vllm import LLM

        # Its CPU build warns twice for every image that it leaves torch's threads alone.
        logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
        self.llm = LLM(
            model=model,
            limit_mm_per_prompt={"image": 1, "video": 0},
            trust_remote_code=trust_remote_code,
            disable_log_stats=True,
            **arguments,
        )

    def stream(self, pending: deque[tuple[int, Ask]], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """A question that does not fit the model (its prompt is too long) has a fault instead of an answer."""
        from vllm.exceptions import VLLMClientError

        engine = self.llm.llm_engine
        running: dict[str, int] = {}
        try:
            while pending or running:
                while pending and len(running) < IN_FLIGHT:
                    number, ask = pending.popleft()
                    try:
                        [name] = self.llm.enqueue([self._request(ask)], _params(ask, sampling, number), use_tqdm=False)  # type: ignore[arg-type]
                    except (VLLMClientError, ValueError) as error:
                        yield number, Answer("", fault=str(error).splitlines()[0])
                        continue
                    running[name.rpartition("-")[0]] = number  # vLLM adds "-" and random characters, here alone
                for output in engine.step():
                    if output.finished:
                        said = output.outputs[0]  # type: ignore[index]
                        tokens = len(output.prompt_token_ids or ()), len(said.token_ids)
                        yield running.pop(output.request_id), Answer(said.text, *tokens)
        finally:
            engine.abort_request(list(running))

    def _request(self, ask: Ask) -> dict[str, Any]:
        """Images are named by their content, so that several questions about one share its encoding."""
        from fer.vlm.chat import chat_prompt

        return {
            "prompt": chat_prompt(self.llm.get_tokenizer(), ask.prompt, ask.before),
            "multi_modal_data": {"image": Image.open(io.BytesIO(ask.image)).convert("RGB")},
            "multi_modal_uuids": {"image": hashlib.sha256(ask.image).hexdigest()},
        }


def _params(ask: Ask, sampling: Sampling, number: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    guide = StructuredOutputsParams(choice=list(ask.labels)) if sampling.guided and ask.labels else None
    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.tokens,
        seed=sampling.seed + number,
        structured_outputs=guide,
    )


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
