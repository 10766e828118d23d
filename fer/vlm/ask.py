"""Asking a vision-language model: one behind an OpenAI-compatible endpoint, or one that vLLM runs in this process."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fer.errors import UserError

ENDPOINT_RETRIES = 6
"""Times that a request is sent again when the endpoint is busy or breaks off, ever later."""

FIRST_REFUSALS = 8
"""So many questions refused before the first answer: the fault is the request's, not the questions'."""

IN_FLIGHT = 256
"""Questions that an engine has at a time; it joins as many of them in a batch as its memory allows."""


@dataclass(frozen=True)
class Ask:
    """A question about an image, and how it is to be answered."""

    image: bytes
    """Encoded."""
    prompt: str
    before: tuple[tuple[str, str], ...] = ()
    """Earlier turns about the same image: what was asked, and what was answered."""
    labels: tuple[str, ...] = ()
    """The candidate labels; guided sampling allows nothing else."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: temperature 0 is greedy; ``tokens`` is the longest answer."""

    temperature: float
    tokens: int
    seed: int = 0
    guided: bool = False
    """The answer is one of the candidate labels, and nothing else."""


@dataclass(frozen=True)
class Answer:
    """What was said, and how many tokens it took; or the ``fault`` for which nothing was."""

    text: str
    prompt_tokens: int = 0
    answer_tokens: int = 0
    fault: str | None = None


class Answerer(ABC):
    """Whoever answers questions."""

    @abstractmethod
    def stream(self, pending: deque[tuple[int, Ask]], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Take questions from ``pending`` and give each one's answer, with its number, as soon as it is there.

        More may be put into ``pending`` meanwhile: a follow-up is then answered along with the others' first turns. The
        number is added to the seed. Ends when all are answered.
        """

    def __call__(self, asks: Sequence[Ask], sampling: Sampling) -> list[str]:
        """One answer to each. Raises UserError where one is refused."""
        answers = dict(self.stream(deque(enumerate(asks)), sampling))
        for answer in answers.values():
            if answer.fault:
                raise UserError(answer.fault)
        return [answers[number].text for number in range(len(asks))]


class Endpoint(Answerer):
    """A model behind an OpenAI-compatible endpoint; the key is in OPENAI_API_KEY.

    At most ``concurrency`` requests are under way, and ``per_minute`` are begun in a minute (0: no limit).
    """

    def __init__(self, url: str, model: str, concurrency: int, per_minute: float = 0) -> None:
        self.url, self.model, self.concurrency = url, model, concurrency
        self._pace = Pace(per_minute)

    def stream(self, pending: deque[tuple[int, Ask]], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Raises UserError where the endpoint can't be reached or refuses, once the requests under way are done.

        A question that it refuses by itself (its image, or its content) has a fault instead.
        """
        from openai import OpenAI

        key = os.environ.get("OPENAI_API_KEY") or "none"
        failed: UserError | None = None
        answered = refused = 0
        with (
            OpenAI(base_url=self.url, api_key=key, max_retries=ENDPOINT_RETRIES) as client,
            ThreadPoolExecutor(self.concurrency, thread_name_prefix="ask") as pool,
        ):
            running: dict[Future[Answer], int] = {}
            while running or (pending and not failed):
                while pending and not failed and len(running) < self.concurrency:
                    number, ask = pending.popleft()
                    running[pool.submit(self._ask, client, number, ask, sampling)] = number
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(done)
                    if isinstance(error := done.exception(), UserError):
                        failed = error
                        continue
                    answer = done.result()
                    answered += answer.fault is None
                    refused += answer.fault is not None
                    if refused >= FIRST_REFUSALS and not answered:
                        failed = UserError(f"--endpoint {self.url}: {answer.fault}")
                    yield number, answer
        if failed:
            raise failed

    def _ask(self, client: Any, number: int, ask: Ask, sampling: Sampling) -> Answer:
        from openai import APIConnectionError, APIStatusError

        self._pace.wait()
        guide = {"response_format": _choice(ask.labels)} if sampling.guided and ask.labels else {}
        try:
            done = client.chat.completions.create(
                model=self.model,
                messages=_messages(ask),
                temperature=sampling.temperature,
                max_tokens=sampling.tokens,
                seed=sampling.seed + number,
                **guide,
            )
        except APIConnectionError:
            raise UserError(f"--endpoint {self.url} can't be reached") from None
        except APIStatusError as error:
            if error.status_code in (400, 413, 422):
                return Answer("", fault=f"refused ({error.status_code}): {error.message}")
            raise UserError(f"--endpoint {self.url} refused ({error.status_code}): {error.message}") from None
        usage = done.usage
        return Answer(
            done.choices[0].message.content or "",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )


class Pace:
    """Lets at most so many through in a minute, evenly; 0: all, at once."""

    def __init__(self, per_minute: float) -> None:
        self.seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._guard = threading.Lock()

    def wait(self) -> None:
        with self._guard:
            turn = max(self._next, time.monotonic())
            self._next = turn + self.seconds
        time.sleep(max(0.0, turn - time.monotonic()))


def _messages(ask: Ask) -> list[dict[str, Any]]:
    kind = Image.open(io.BytesIO(ask.image)).get_format_mimetype()
    url = f"data:{kind};base64,{base64.b64encode(ask.image).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    messages: list[dict[str, Any]] = []
    for asked, answered in ask.before:
        messages.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        messages.append({"role": "assistant", "content": answered})
    messages.append({"role": "user", "content": [{"type": "text", "text": ask.prompt}]})
    messages[0]["content"].insert(0, image)
    return messages


def _choice(labels: Sequence[str]) -> dict[str, Any]:
    """OpenAI's structured output has no plain choice: an object whose one field is a candidate label."""
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(labels)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "expression", "strict": True, "schema": schema}}


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
