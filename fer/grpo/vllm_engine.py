"""A rollout engine: vLLM in a Ray actor that generates groups of completions, and takes new weights between them.

All trainers send requests at once, and each request joins the running batch (continuous batching). One thread does all
of vLLM's work, so generation, log-probabilities and weight updates never overlap.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from fer.grpo.checksums import SyncReport
from fer.grpo.options import GrpoConfig
from fer.grpo.rollout import Completion, EngineStats, Prompt, RolloutOutput
from fer.grpo.weight_sync import TensorSpec

TRANSFER_BACKEND = "ferry"
"""Name of our backend among vLLM's weight-transfer backends."""


@dataclass
class _QueuedPrompt:
    prompt: Prompt
    future: asyncio.Future[RolloutOutput]
    greedy: bool
    weight_version: int = -1


class RolloutEngine:
    """The actor. All its methods are coroutines; an error in vLLM is raised in the callers."""

    def __init__(self, model: str, sampling: dict[str, Any], engine_args: dict[str, Any], config: GrpoConfig) -> None:
        """``sampling``: arguments of vLLM's SamplingParams. ``engine_args``: arguments of vLLM's LLM."""
        self._thread = ThreadPoolExecutor(1)
        # vLLM is made on the thread that steps it: device, streams and numbers of threads are properties of a thread.
        self.llm = self._thread.submit(self._start, model, engine_args, config).result()
        [self._transfer] = self.llm.collective_rpc(lambda worker: worker.weight_transfer_engine)
        self.sampling = sampling
        self.version = -1
        self.stats = EngineStats()
        self._queued: list[_QueuedPrompt] = []
        self._running: dict[str, _QueuedPrompt] = {}
        self._loop: asyncio.Task[None] | None = None
        self._can_sleep = bool(engine_args.get("enable_sleep_mode"))
        self._asleep = False

    def _start(self, model: str, engine_args: dict[str, Any], config: GrpoConfig) -> Any:
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
        return VllmClient(
            resolve_vlm(model, config),
            trust_remote_code=config.trust_remote_code,
            weight_transfer_config={"backend": TRANSFER_BACKEND},
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,  # a group's completions share the prompt's prefix, and its image
            **engine_args,
        ).llm

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

    async def generate(self, prompt: Prompt, greedy: bool = False) -> RolloutOutput:
        """A group of completions of one prompt; if ``greedy``, one of the most probable tokens."""
        queued = _QueuedPrompt(prompt, asyncio.get_running_loop().create_future(), greedy)
        self._queued.append(queued)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._generation_loop())
        return await queued.future

    async def compute_logprobs(self, prompt: Prompt, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of the ``completions``, at temperature 1 and with no token masked."""
        return await self._on_vllm_thread(partial(self._compute_logprobs, prompt, [list(each) for each in completions]))

    async def init_process_group(
        self, host: str, port: int, rank: int, world_size: int, timeout: float, through_host: bool
    ) -> None:
        """Join the trainers' process group for weight sync; ``timeout``: seconds that an update may take.

        ``through_host``: the trainers are on the engines' GPUs.
        """
        info = {"host": host, "port": port, "rank": rank, "world_size": world_size, "timeout": timeout}
        info["through_host"] = through_host
        await self._on_vllm_thread(partial(self.llm.init_weight_transfer_engine, {"init_info": info}))

    async def cancel(self) -> None:
        """Cancel all requests: the trainers that sent them are gone."""
        requests = [*self._queued, *self._running.values()]
        self._queued.clear()
        await self._on_vllm_thread(self._abort)
        for request in requests:
            request.future.cancel()

    async def update_weights(
        self, version: int, specs: Sequence[TensorSpec], **options: Any
    ) -> tuple[EngineStats, SyncReport]:
        """Finish all requests, then receive weights from the process group.

        ``options``: the other fields of `UpdateInfo`. Returns the work done since the last update, and what the engine
        received.
        """
        await self.wait_idle()
        report = await self._on_vllm_thread(partial(self._update_weights, {"specs": list(specs)} | options))
        self.version = version
        stats, self.stats = self.stats, EngineStats()
        return stats, report

    async def sleep(self) -> None:
        """Give back the GPU's memory once all requests are finished: weights go to the host, the KV cache is dropped.

        The next call that needs vLLM wakes it up. Without sleep mode (on CPUs) nothing happens.
        """
        await self.wait_idle()
        if self._can_sleep:
            await self._on_vllm_thread(self._sleep)

    async def abort_transfer(self) -> None:
        """End a weight update that is under way: one of the others has failed."""
        self._transfer.abort()

    # -- on vLLM's thread ----------------------------------------------------------------------------------------------

    def _sleep(self) -> None:
        self.llm.sleep(level=1)
        self._asleep = True

    def _wake_up(self) -> None:
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False

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
        self._wake_up()
        for request in new:
            request.weight_version = self.version
            sampling = self.sampling | ({"n": 1, "temperature": 0.0} if request.greedy else {})
            params = SamplingParams(**sampling, logprobs=0)
            inputs = {"prompt": request.prompt.text} | _image_inputs(request.prompt)
            [name] = self.llm.enqueue([inputs], params, use_tqdm=False)
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

    def _compute_logprobs(self, prompt: Prompt, completions: list[list[int]]) -> list[list[float]]:
        from vllm import SamplingParams

        self._wake_up()
        params = SamplingParams(max_tokens=1, prompt_logprobs=0)
        prompt_ids = self.llm.get_tokenizer()(prompt.text, add_special_tokens=False)["input_ids"]
        inputs = [{"prompt_token_ids": prompt_ids + ids} | _image_inputs(prompt) for ids in completions]
        logprobs = []
        for ids, output in zip(completions, self.llm.generate(inputs, params, use_tqdm=False), strict=True):
            candidates: Any = output.prompt_logprobs
            candidates = candidates[-len(ids) :]
            logprobs.append([each[token].logprob for each, token in zip(candidates, ids, strict=True)])
        return logprobs

    def _update_weights(self, info: dict[str, Any]) -> SyncReport:
        self._wake_up()
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": info})
        self.llm.finish_weight_update()
        # Both caches were computed with the old weights: attention's keys and values, and the encoded images.
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept keys and values of the old weights: requests still hold some of its blocks")
        self.llm.llm_engine.reset_encoder_cache()
        return self._transfer.report

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
