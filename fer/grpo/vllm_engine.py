"""A rollout engine: vLLM in a Ray actor that generates groups of completions, and takes new weights between them.

All trainers send requests at once, and each request joins the running batch (continuous batching). One thread does all
of vLLM's work, so its steps and weight updates never overlap.

Before a weight update, requests that run are finished, and others wait. With partial rollouts nothing is finished: vLLM
drops the keys and values of what runs, computes them again with the new weights, and samples the next tokens from them.

With tensor parallelism, vLLM runs a process for each GPU (a rank), and this one schedules.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fer.grpo.adapters import lora_request
from fer.grpo.checksums import SyncReport, compare_ranks
from fer.grpo.communicator import WAS_ABORTED
from fer.grpo.engine_requests import EngineRequest, image_inputs, rollout_output
from fer.grpo.options import GrpoConfig
from fer.grpo.reload_warnings import show_warnings, without_cache_warning
from fer.grpo.rollout import EngineStats, Prompt, RolloutOutput
from fer.grpo.weight_sync import TensorSpec


class RolloutEngine:
    """The actor. All its methods are coroutines; an error in vLLM is raised in the callers."""

    def __init__(self, model: str, sampling: dict[str, Any], engine_args: dict[str, Any], config: GrpoConfig) -> None:
        """``sampling``: arguments of vLLM's SamplingParams. ``engine_args``: arguments of vLLM's LLM."""
        self._thread = ThreadPoolExecutor(1)
        # vLLM is made on the thread that steps it: device, streams and numbers of threads are properties of a thread.
        self.llm = self._thread.submit(self._start, model, engine_args, config).result()
        self.sampling = sampling
        self.version = -1
        self.stats = EngineStats()
        self._queued: list[EngineRequest] = []
        self._running: dict[str, EngineRequest] = {}
        self._loop: asyncio.Task[None] | None = None
        self._has_adapters = config.engine_adapters == "separate"
        self._lora_rank, self._lora_alpha = config.lora_rank, config.lora_alpha
        self._partial = config.partial_rollouts
        self._paused = False
        self._can_sleep = bool(engine_args.get("enable_sleep_mode"))
        self._asleep = False

    def _start(self, model: str, engine_args: dict[str, Any], config: GrpoConfig) -> Any:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the scheduler runs in this process, as does a single rank
        # A rank that hangs is found by the trainers; an error of vLLM's before that would count as a request's own.
        os.environ["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = str(math.ceil(2 * config.engine_timeout))
        import torch

        from fer.inference.vllm import VllmClient, set_cpu_environment
        from fer.vlm.model import resolve_vlm

        if not torch.cuda.is_available():
            set_cpu_environment()
        from fer.grpo.vllm_weight_transfer import BACKEND, TransferWorker

        llm = VllmClient(
            resolve_vlm(model, config),
            trust_remote_code=config.trust_remote_code,
            worker_extension_cls=f"{TransferWorker.__module__}.{TransferWorker.__qualname__}",
            weight_transfer_config={"backend": BACKEND},
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,  # a group's completions share the prompt's prefix, and its image
            **engine_args,
        ).llm
        show_warnings()
        core: Any = llm.llm_engine.engine_core
        self._executor = core.engine_core.model_executor
        self._executor.register_failure_callback(partial(os._exit, 1))  # a rank has died: Ray restarts the engine
        return llm

    async def ready(self) -> int:
        """The process id, once the engine has started."""
        return os.getpid()

    async def weight_version(self) -> int:
        """Version of its weights; -1 before the first update."""
        return self.version

    async def pause(self) -> None:
        """Start no request any more until the weights are updated, and return once none is running.

        With partial rollouts, requests that are running stay where they are.
        """
        self._paused = True
        await self._wait_idle()

    async def generate(self, prompt: Prompt, greedy: bool = False) -> RolloutOutput | None:
        """A group of completions of one prompt; if ``greedy``, one of the most probable tokens.

        None if the engine has not got the trainers' weights: it has been restarted.
        """
        if self.version < 0:
            return None
        sampling = self.sampling | ({"n": 1, "temperature": 0.0} if greedy else {})
        request = self._submit({"prompt": prompt.text} | image_inputs(prompt), sampling | {"logprobs": 0})
        output = rollout_output(await request.output, request.history)
        self.stats.tokens += sum(len(each.token_ids) for each in output.completions)
        return output

    async def compute_logprobs(self, prompt: Prompt, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of the ``completions``, at temperature 1 and with no token masked."""
        tokenize = partial(self.llm.get_tokenizer(), prompt.text, add_special_tokens=False)
        prompt_ids = (await self._on_vllm_thread(tokenize))["input_ids"]
        sampling = {"max_tokens": 1, "prompt_logprobs": 0}
        inputs = [{"prompt_token_ids": [*prompt_ids, *ids]} | image_inputs(prompt) for ids in completions]
        requests = [self._submit(each, sampling) for each in inputs]
        logprobs = []
        for ids, request in zip(completions, requests, strict=True):
            candidates = (await request.output).prompt_logprobs[-len(ids) :]
            logprobs.append([each[token].logprob for each, token in zip(candidates, ids, strict=True)])
        return logprobs

    async def init_process_group(
        self, host: str, port: int, rank: int, world_size: int, timeout: float, through_host: bool
    ) -> None:
        """Join the trainers' process group for weight sync, with the ranks from ``rank`` on.

        ``timeout``: seconds that an update may take. ``through_host``: the trainers are on the engines' GPUs.
        """
        info = {"host": host, "port": port, "rank": rank, "world_size": world_size, "timeout": timeout}
        info["through_host"] = through_host
        await self._on_vllm_thread(partial(self._call_ranks, "join_trainers", info))

    async def cancel(self) -> None:
        """Cancel all requests: the trainers that sent them are gone."""
        requests = [*self._queued, *self._running.values()]
        self._queued.clear()
        await self._on_vllm_thread(self._abort)
        for request in requests:
            request.output.cancel()

    async def update_weights(
        self, version: int, specs: Sequence[TensorSpec], **options: Any
    ) -> tuple[EngineStats, SyncReport]:
        """Pause, receive weights from the process group, and go on.

        ``options``: the other fields of `UpdateInfo`. Returns the work done since the last update, and what the engine
        received. After an error, and after base weights for adapters that come next, the engine stays paused.
        """
        await self.pause()
        report = await self._on_vllm_thread(partial(self._update_weights, version, {"specs": list(specs)} | options))
        self.version = version
        self._paused = options.get("keep_base", False)
        self._start_loop()
        stats, self.stats = self.stats, EngineStats()
        return stats, report

    async def sleep(self) -> None:
        """Give back the GPU's memory once all requests are finished: weights go to the host, the KV cache is dropped.

        The next call that needs vLLM wakes it up. Without sleep mode (on CPUs) nothing happens.
        """
        await self._wait_idle()
        if self._can_sleep:
            await self._on_vllm_thread(self._sleep)

    async def shutdown(self) -> None:
        """End the ranks' processes and free what they share with this one, which is killed next."""
        await self._on_vllm_thread(self._executor.shutdown)

    # -- the loop of vLLM's steps --------------------------------------------------------------------------------------

    def _submit(self, inputs: dict[str, Any], sampling: dict[str, Any]) -> EngineRequest:
        request = EngineRequest(inputs, sampling, asyncio.get_running_loop().create_future())
        self._queued.append(request)
        self._start_loop()
        return request

    def _start_loop(self) -> None:
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._step_until_done())

    async def _wait_idle(self) -> None:
        while self._loop is not None and not self._loop.done():
            await asyncio.wait([self._loop])

    def _has_work(self) -> bool:
        if self._paused:
            return bool(self._running) and not self._partial
        return bool(self._queued or self._running)

    async def _step_until_done(self) -> None:
        while self._has_work():
            new: list[EngineRequest] = []
            if not self._paused:
                new, self._queued = self._queued, new
            try:
                finished = await self._on_vllm_thread(partial(self._engine_step, new))
            except Exception as error:
                for request in [*new, *self._running.values()]:
                    if not request.output.done():
                        request.output.set_exception(error)
                await self._on_vllm_thread(self._abort)
                raise
            for request, output in finished:
                if not request.output.done():
                    request.output.set_result(output)

    async def _on_vllm_thread(self, call: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except Exception:
            if getattr(self._executor, "is_failed", False):
                await asyncio.get_running_loop().create_future()  # never: vLLM ends the other ranks, then this process
            raise

    # -- on vLLM's thread ----------------------------------------------------------------------------------------------

    def _sleep(self) -> None:
        self.llm.sleep(level=1)
        self._asleep = True

    def _wake_up(self) -> None:
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False

    def _engine_step(self, new: list[EngineRequest]) -> list[tuple[EngineRequest, Any]]:
        """Add new requests, run one step of vLLM, and return the requests that it finished, with its outputs."""
        from vllm import SamplingParams

        started = time.perf_counter()
        self._wake_up()
        lora = lora_request() if self._has_adapters else None
        for request in new:
            request.history.append((self.version, {}))
            sampling = SamplingParams(**request.sampling)
            [name] = self.llm.enqueue([request.inputs], sampling, lora_request=lora, use_tqdm=False)
            self._running[name.rpartition("-")[0]] = request  # vLLM appends "-" and random characters, here only
        finished = [
            (self._running.pop(output.request_id), output) for output in self.llm.llm_engine.step() if output.finished
        ]
        self.stats.seconds += time.perf_counter() - started
        return finished

    def _update_weights(self, version: int, info: dict[str, Any]) -> SyncReport:
        self._wake_up()
        if self._has_adapters:
            with tempfile.TemporaryDirectory(prefix="ferry-adapters-") as name:
                settings = Path(name), self._lora_rank, self._lora_alpha
                report = compare_ranks(self._call_ranks("receive_adapters", info, *settings))
                report.problems += self._call_ranks("load_adapters", Path(name))[0]  # the same on all
        else:
            report = compare_ranks(self._call_ranks("receive_weights", info))
        # Both caches were computed with the old weights: attention's keys and values, and the encoded images.
        if not self.llm.reset_prefix_cache(reset_running_requests=self._partial):
            raise RuntimeError("vLLM kept keys and values of the old weights: requests still hold some of its blocks")
        with without_cache_warning():
            self.llm.llm_engine.reset_encoder_cache()
        for name, tokens in self._tokens_so_far().items():
            self._running[name].history.append((version, tokens))
        return report

    def _call_ranks(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of `TransferWorker` on all ranks. Errors, which they return as text, are raised here."""
        results = self.llm.collective_rpc(method, args=arguments)
        errors = [result for result in results if isinstance(result, str)]
        if errors:
            raise RuntimeError(next((error for error in errors if error != WAS_ABORTED), errors[0]))
        return results

    def _tokens_so_far(self) -> dict[str, dict[int, int]]:
        """Tokens of each unfinished completion (by its number), of each running request (by its name)."""
        tokens: dict[str, dict[int, int]] = {name: {} for name in self._running}
        for state in self.llm.llm_engine.output_processor.request_states.values():
            tokens[state.external_req_id][state.request_index] = state.detokenizer.num_output_tokens()
        return tokens

    def _abort(self) -> None:
        self.llm.llm_engine.abort_request(list(self._running))
        self._running.clear()
