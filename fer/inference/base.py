"""The interface of everything that responds to prompts about images: API endpoints, vLLM and classifiers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fer.data.vqa.questions import Turn
from fer.errors import UserError


@dataclass(frozen=True)
class Request:
    """One prompt about an image."""

    image: bytes
    """Encoded, in any format that Pillow reads."""
    prompt: str
    history: tuple[Turn, ...] = ()
    """Earlier turns about the same image, each with its response."""
    labels: tuple[str, ...] = ()
    """Candidate labels: the only responses that guided decoding allows."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole conversation; the last turn has no response yet."""
        return (*self.history, Turn(self.prompt))


@dataclass(frozen=True)
class SamplingParams:
    """How responses are generated. Temperature 0 is greedy decoding."""

    temperature: float
    max_new_tokens: int
    seed: int = 0
    guided: bool = False
    """Constrain every response to one of its request's candidate labels."""
    model_penalty: bool = False
    """Apply the repetition penalty of the model's generation config, as `generate` of transformers does by itself."""


@dataclass(frozen=True)
class Response:
    """Generated text with its token counts; or, for a request that failed, an ``error`` and no text."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


class InferenceClient(ABC):
    """Sends requests to one model."""

    max_running: int
    """Requests that run at a time. A caller keeps as many pending, so that all of them can be replaced at once."""

    @abstractmethod
    def stream(self, pending: deque[tuple[int, Request]], sampling: SamplingParams) -> Iterator[tuple[int, Response]]:
        """Take numbered requests from ``pending`` and yield each one's response as soon as it is complete.

        The caller may append to ``pending`` while it iterates: follow-up turns then run along with the first turns of
        other requests. A request's seed is ``sampling.seed`` plus its number. Ends when ``pending`` is empty and every
        response has been yielded.
        """

    def __call__(self, requests: Sequence[Request], sampling: SamplingParams) -> list[str]:
        """The text of every response, in the order of ``requests``. Raises UserError if one of them failed."""
        responses = dict(self.stream(deque(enumerate(requests)), sampling))
        for response in responses.values():
            if response.error is not None:
                raise UserError(response.error)
        return [responses[number].text for number in range(len(requests))]
