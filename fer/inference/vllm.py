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

from fer.cpus import has_fast_bf16
from fer.inference.base import InferenceClient, Request, Response, SamplingParams

CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_PLUGINS": "",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Environment variables that vLLM's CPU build needs."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Environment variables without which each process of an engine prints a page of warnings at its start."""
CPU_ARGUMENTS = {"enforce_eager": True, "skip_mm_profiling": True}
"""Arguments of an engine on CPUs: nothing is compiled, and no memory is reserved for the largest images."""


class VllmClient(InferenceClient):
    """A model that vLLM runs in this process, on its GPUs or CPUs."""

    max_running = 256  # it batches as many of them as fit its memory

    def __init__(self, model: str, *, trust_remote_code: bool = False, dtype: str = "auto", **arguments: Any) -> None:
        """``dtype`` and ``arguments`` are those of vLLM's LLM."""
        import torch

        if not torch.cuda.is_available():
            set_cpu_environment()
            arguments = CPU_ARGUMENTS | arguments
            dtype = cpu_dtype() if dtype == "auto" else dtype
        from vllm import LLM

        # Its CPU build warns twice per image that it leaves torch's threads alone.
        logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
        self.llm = LLM(
            model=model,
            dtype=dtype,  # type: ignore[arg-type]
            limit_mm_per_prompt={"image": 1, "video": 0},
            trust_remote_code=trust_remote_code,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **arguments,
        )

    def stream(self, pending: deque[tuple[int, Request]], sampling: SamplingParams) -> Iterator[tuple[int, Response]]:
        """A request with a too long prompt or a damaged image yields a response with an error."""
        from vllm.exceptions import VLLMClientError

        engine = self.llm.llm_engine
        running: dict[str, int] = {}
        try:
            while pending or running:
                while pending and len(running) < self.max_running:
                    number, request = pending.popleft()
                    params = self._vllm_params(request, sampling, number)
                    try:
                        [name] = self.llm.enqueue([self._vllm_prompt(request)], params, use_tqdm=False)  # type: ignore[arg-type]
                    except (VLLMClientError, ValueError, OSError) as error:
                        yield number, Response("", error=(str(error) or repr(error)).splitlines()[0])
                        continue
                    running[name.rpartition("-")[0]] = number  # `enqueue` alone appends "-" and random characters
                for output in engine.step():
                    if output.finished:
                        completion = output.outputs[0]  # type: ignore[index]
                        tokens = len(output.prompt_token_ids or ()), len(completion.token_ids)
                        yield running.pop(output.request_id), Response(completion.text, *tokens)
        finally:
            engine.abort_request(list(running))

    def _vllm_prompt(self, request: Request) -> dict[str, Any]:
        """The image is identified by its content hash, so that requests about the same image share its encoding."""
        from fer.vlm.chat import render_prompt

        return {
            "prompt": render_prompt(self.llm.get_tokenizer(), request.turns),
            "multi_modal_data": {"image": Image.open(io.BytesIO(request.image)).convert("RGB")},
            "multi_modal_uuids": {"image": hashlib.sha256(request.image).hexdigest()},
        }

    def _vllm_params(self, request: Request, sampling: SamplingParams, number: int) -> Any:
        import vllm
        from vllm.sampling_params import StructuredOutputsParams

        guided = StructuredOutputsParams(choice=list(request.labels)) if sampling.guided and request.labels else None
        penalty = self.llm.get_default_sampling_params().repetition_penalty if sampling.model_penalty else 1.0
        return vllm.SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            repetition_penalty=penalty,
            seed=sampling.seed + number,
            structured_outputs=guided,
        )


def set_cpu_environment() -> None:
    """Set `CPU_ENVIRONMENT` in this process. Call it before importing vllm."""
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def cpu_dtype() -> str:
    """vLLM's data type for a model on CPUs: the model's own, but float32 where bfloat16 is slow."""
    return "auto" if has_fast_bf16() else "float32"
