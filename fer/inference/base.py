"""Who answers prompts about images: the interface that endpoints, vLLM engines and classifiers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fer.errors import UserError


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
