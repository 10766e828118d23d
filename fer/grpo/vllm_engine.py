"""A rollout engine: vLLM in a Ray actor that generates groups of completions, and takes new weights between them.

All trainers send requests at once, and each request joins the running batch (continuous batching). One thread does all
of vLLM's work, so generation, log-probabilities and weight updates never overlap.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from fer.grpo.options import GrpoConfig
from fer.grpo.rollout import Completion, EngineStats, Prompt, RolloutOutput
from fer.grpo.weight_sync import TensorSpec

TRANSFER_BACKEND = "ferry"
"""Name of our backend among vLLM's weight-transfer backends."""


@dataclass
class _QueuedPrompt:
    prompt: Prompt
    future: asyncio.Future[RolloutOutput]
    weight_version: int = -1


class RolloutEngine:
    """The actor. All its methods are coroutines; an error in vLLM is raised in the callers."""

    def __init__(self, model: str, sampling: dict[str, Any], engine_args: dict[str, Any], config: GrpoConfig) -> None:
        """``sampling``: arguments of vLLM's SamplingParams. ``engine_args``: arguments of vLLM's LLM."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model and its weight transfer live in this process
        import torch

        from fer.inference.vllm import VllmClient, set_cpu_environment
        from fer.vlm.model import resolve_vlm

        if not torch.cuda.is_available():
            set_cpu_environment()
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

        WeightTransferEngineFactory.register_engine(
            TRANSFER_BACKEND, "fer.grpo.vllm_weight_transfer", "ProcessGroupTransfer"
        )
        client = VllmClient(
            resolve_vlm(model, config),
            trust_remote_code=config.trust_remote_code,
            weight_transfer_config={"backend": TRANSFER_BACKEND},
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,  # a group's completions share the prompt's prefix, and its image
            **engine_args,
        )
        # It warns at each weight update about the layers that have no weights.
        logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
        self.llm, self.sampling = client.llm, sampling
        self.version = -1
        self.stats = EngineStats()
        self._thread = ThreadPoolExecutor(1)
        self._queued: list[_QueuedPrompt] = []
        self._running: dict[str, _QueuedPrompt] = {}
        self._loop: asyncio.Task[None] | None = None

    async def ready(self) -> int:
        """The process id, once the engine has started."""
        return os.getpid()

    async def weight_version(self) -> int:
        """Version of its weights; -1 before the first update."""
        return self.version

    async def wait_idle(self) -> None:
        """Return once all requests are finished."""
        while self._loop is not None and not self._loop.done():
            await asyncio.wait([self._loop])

    async def generate(self, prompt: Prompt) -> RolloutOutput:
        """A group of completions of one prompt."""
        queued = _QueuedPrompt(prompt, asyncio.get_running_loop().create_future())
        self._queued.append(queued)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._generation_loop())
        return await queued.future

    async def compute_logprobs(self, prompt: Prompt, token_ids: Sequence[int]) -> list[float]:
        """Log-probability of each of ``token_ids`` as a completion, at temperature 1 and with no token masked."""
        return await self._on_vllm_thread(partial(self._compute_logprobs, prompt, list(token_ids)))

    async def init_process_group(self, host: str, port: int, rank: int, world_size: int) -> None:
        """Join the trainers' process group for weight sync."""
        info = {"host": host, "port": port, "rank": rank, "world_size": world_size}
        await self._on_vllm_thread(partial(self.llm.init_weight_transfer_engine, {"init_info": info}))

    async def cancel(self) -> None:
        """Cancel all requests: the trainers that sent them are gone."""
        requests = [*self._queued, *self._running.values()]
        self._queued.clear()
        await self._on_vllm_thread(self._abort)
        for request in requests:
            request.future.cancel()

    async def update_weights(self, version: int, specs: Sequence[TensorSpec], **options: Any) -> EngineStats:
        """Finish all requests, then receive weights from the process group; the work done since the last update.

        ``options``: the other fields of `UpdateInfo`.
        """
        await self.wait_idle()
        await self._on_vllm_thread(partial(self._update_weights, {"specs": list(specs)} | options))
        self.version = version
        stats, self.stats = self.stats, EngineStats()
        return stats

    # -- on vLLM's thread ----------------------------------------------------------------------------------------------

    async def _on_vllm_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _generation_loop(self) -> None:
        while self._queued or self._running:
            queued, self._queued = self._queued, []
            try:
                finished = await self._on_vllm_thread(partial(self._engine_step, queued))
            except Exception as error:
                for request in [*queued, *self._running.values()]:
                    if not request.future.done():
                        request.future.set_exception(error)
                self._running.clear()
                raise
            for request, output in finished:
                if not request.future.done():
                    request.future.set_result(output)

    def _engine_step(self, new: list[_QueuedPrompt]) -> list[tuple[_QueuedPrompt, RolloutOutput]]:
        """Add new requests, run one step of vLLM, and return the requests that it finished."""
        from vllm import SamplingParams

        started = time.perf_counter()
        for request in new:
            request.weight_version = self.version
            params = SamplingParams(**self.sampling, logprobs=0)
            inputs = {"prompt": request.prompt.text} | _image_inputs(request.prompt)
            [name] = self.llm.enqueue([inputs], params, use_tqdm=False)  # type: ignore[arg-type]
            self._running[name.rpartition("-")[0]] = request  # vLLM appends "-" and random characters, here only
        finished = []
        for output in self.llm.llm_engine.step():
            if output.finished:
                request = self._running.pop(output.request_id)
                result = _rollout_output(output, request.weight_version)
                self.stats.tokens += sum(len(each.token_ids) for each in result.completions)
                finished.append((request, result))
        self.stats.seconds += time.perf_counter() - started
        return finished

    def _compute_logprobs(self, prompt: Prompt, token_ids: list[int]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0)
        prompt_ids = self.llm.get_tokenizer()(prompt.text, add_special_tokens=False)["input_ids"]
        inputs = {"prompt_token_ids": prompt_ids + token_ids} | _image_inputs(prompt)
        [output] = self.llm.generate([inputs], params, use_tqdm=False)  # type: ignore[arg-type]
        logprobs: Any = output.prompt_logprobs
        logprobs = logprobs[-len(token_ids) :]
        return [candidates[token].logprob for candidates, token in zip(logprobs, token_ids, strict=True)]

    def _update_weights(self, info: dict[str, Any]) -> None:
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": info})
        self.llm.finish_weight_update()
        # Both caches were computed with the old weights: attention's keys and values, and the encoded images.
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def _abort(self) -> None:
        self.llm.llm_engine.abort_request(list(self._running))
        self._running.clear()


def _image_inputs(prompt: Prompt) -> dict[str, Any]:
    """The image for vLLM, named by its content so that equal images are encoded once."""
    digest = hashlib.sha256(prompt.image.tobytes()).hexdigest()
    return {
        "multi_modal_data": {"image": Image.fromarray(prompt.image)},
        "multi_modal_uuids": {"image": f"{digest}-{prompt.image.shape}"},
    }


def _rollout_output(output: Any, weight_version: int) -> RolloutOutput:
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
    return RolloutOutput(list(output.prompt_token_ids), completions, weight_version)
