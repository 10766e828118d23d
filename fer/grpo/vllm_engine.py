"""A rollout engine: vLLM in a Ray actor that samples groups of completions, and takes new weights in between.

Calls come from all trainers at once; each question joins the batch that is under way (continuous batching). One thread
does all of vLLM's work, so sampling, scoring and new weights never meet.
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

import numpy as np
from PIL import Image

from fer.grpo.weight_sync import Meta

TRANSFER = "ferry"
"""Our name among vLLM's ways of weight transfer."""


@dataclass(frozen=True)
class Prompt:
    """A question as an engine takes it: the text has one placeholder for the image, which vLLM expands."""

    text: str
    image: np.ndarray
    """RGB, uint8 (H, W, 3), as the trainers see it."""


@dataclass(frozen=True)
class Sampled:
    """One completion: text, tokens with the end token, and the log-probability of each as it was drawn."""

    text: str
    tokens: list[int]
    logps: list[float]
    cut: bool
    """Whether it ran into the limit."""


@dataclass(frozen=True)
class Group:
    """All completions of one question, and the version of the weights that they were drawn with."""

    prompt_tokens: list[int]
    completions: list[Sampled]
    version: int


@dataclass
class Work:
    """What an engine did since it was last asked."""

    seconds: float = 0.0
    tokens: int = 0


@dataclass
class _Request:
    prompt: Prompt
    future: asyncio.Future[Group]
    version: int = -1


class RolloutEngine:
    """The actor. All its methods are coroutines; vLLM's errors reach whoever asked."""

    def __init__(
        self, model: str, sampling: dict[str, Any], arguments: dict[str, Any], trust_remote_code: bool
    ) -> None:
        """``sampling``: vLLM's SamplingParams. ``arguments``: of vLLM's LLM."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model lives in this process, and so does its transfer
        import torch

        from fer.inference.vllm import VllmClient, set_cpu_environment

        if not torch.cuda.is_available():
            set_cpu_environment()
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

        WeightTransferEngineFactory.register_engine(TRANSFER, "fer.grpo.vllm_weight_transfer", "Transfer")
        engine = VllmClient(
            model,
            trust_remote_code=trust_remote_code,
            weight_transfer_config={"backend": TRANSFER},
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,  # the samples of a question share its prefix, and its image
            **arguments,
        )
        # It warns at each new set of weights of the layers that have none.
        logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
        self.llm, self.sampling = engine.llm, sampling
        self.version = -1
        self.work = Work()
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[_Request] = []
        self._running: dict[str, _Request] = {}
        self._loop: asyncio.Task[None] | None = None

    async def ready(self) -> int:
        """Process number, once the engine is there."""
        return os.getpid()

    async def holds(self) -> int:
        """Version of its weights; -1 before the trainers' first."""
        return self.version

    async def idle(self) -> None:
        """Returns once all that was asked is answered."""
        while self._loop is not None and not self._loop.done():
            await asyncio.wait([self._loop])

    async def sample(self, prompt: Prompt) -> Group:
        """A group of completions of one question."""
        request = _Request(prompt, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._serve())
        return await request.future

    async def score(self, prompt: Prompt, tokens: Sequence[int]) -> list[float]:
        """The log-probability of each of ``tokens`` as a completion, at temperature 1 and with all tokens allowed."""
        return await self._alone(partial(self._score, prompt, list(tokens)))

    async def meet(self, host: str, port: int, rank: int, size: int) -> None:
        """Join the trainers' process group."""
        await self._alone(
            partial(
                self.llm.init_weight_transfer_engine,
                {"init_info": {"host": host, "port": port, "rank": rank, "size": size}},
            )
        )

    async def forget(self) -> None:
        """Drop what was asked: by trainers that are no more."""
        asked = [*self._waiting, *self._running.values()]
        self._waiting.clear()
        await self._alone(self._abort)
        for request in asked:
            request.future.cancel()

    async def update(self, version: int, metas: Sequence[Meta], **how: Any) -> Work:
        """Take weights from the process group once all that was asked is answered; what was done until then."""
        await self.idle()
        await self._alone(partial(self._update, {"metas": list(metas)} | how))
        self.version = version
        done, self.work = self.work, Work()
        return done

    # -- on vLLM's thread ----------------------------------------------------------------------------------------------

    async def _alone(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _serve(self) -> None:
        while self._waiting or self._running:
            waiting, self._waiting = self._waiting, []
            try:
                finished = await self._alone(partial(self._step, waiting))
            except Exception as error:
                for request in [*waiting, *self._running.values()]:
                    if not request.future.done():
                        request.future.set_exception(error)
                self._running.clear()
                raise
            for request, group in finished:
                if not request.future.done():
                    request.future.set_result(group)

    def _step(self, new: list[_Request]) -> list[tuple[_Request, Group]]:
        """Take in what came, and let vLLM do one step."""
        from vllm import SamplingParams

        started = time.perf_counter()
        for request in new:
            request.version = self.version
            params = SamplingParams(**self.sampling, logprobs=0)
            [name] = self.llm.enqueue([_vllm_prompt(request.prompt)], params, use_tqdm=False)  # type: ignore[arg-type]
            self._running[name.rpartition("-")[0]] = request  # vLLM adds "-" and random characters, here alone
        finished = []
        for output in self.llm.llm_engine.step():
            if output.finished:
                request = self._running.pop(output.request_id)
                group = _group(output, request.version)
                self.work.tokens += sum(len(each.tokens) for each in group.completions)
                finished.append((request, group))
        self.work.seconds += time.perf_counter() - started
        return finished

    def _score(self, prompt: Prompt, tokens: list[int]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0)
        ids = self.llm.get_tokenizer()(prompt.text, add_special_tokens=False)["input_ids"]
        whole = {"prompt_token_ids": ids + tokens} | _image(prompt)
        [output] = self.llm.generate([whole], params, use_tqdm=False)  # type: ignore[arg-type]
        found: Any = output.prompt_logprobs
        found = found[-len(tokens) :]
        return [place[token].logprob for place, token in zip(found, tokens, strict=True)]

    def _update(self, info: dict[str, Any]) -> None:
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": info})
        self.llm.finish_weight_update()
        # What was computed with the old weights: attention's keys and values, and the encodings of images.
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def _abort(self) -> None:
        self.llm.llm_engine.abort_request(list(self._running))
        self._running.clear()


def _image(prompt: Prompt) -> dict[str, Any]:
    """The image, named by its content."""
    digest = hashlib.sha256(prompt.image.tobytes()).hexdigest()
    return {
        "multi_modal_data": {"image": Image.fromarray(prompt.image)},
        "multi_modal_uuids": {"image": f"{digest}-{prompt.image.shape}"},
    }


def _vllm_prompt(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt.text} | _image(prompt)


def _group(output: Any, version: int) -> Group:
    completions = [
        Sampled(
            text=each.text,
            tokens=list(each.token_ids),
            logps=[place[token].logprob for place, token in zip(each.logprobs, each.token_ids, strict=True)],
            cut=each.finish_reason == "length",
        )
        for each in output.outputs
    ]
    return Group(list(output.prompt_token_ids), completions, version)
