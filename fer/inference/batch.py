"""Answering many questions: engines on Ray Data, or an endpoint; each answer is on disk the moment it is there."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import ray
import ray.data
import ray.exceptions
from PIL import Image

from fer.answers import UNKNOWN, read_label
from fer.data.images import decode_rgb
from fer.data.stream.prefetch import load_image, read_ahead
from fer.data.vqa.prompts import second_turn
from fer.data.vqa.questions import ImageRoot
from fer.errors import BadRow, UserError
from fer.inference.base import Answer, Answerer, Ask, Sampling
from fer.inference.journal import Part
from fer.inference.openai import Endpoint
from fer.inference.vllm import Engine

AHEAD = 64  # questions that are ready, image and all, for an engine to take
TASK = 512  # questions of one Ray Data task: engines are never idle within one


@dataclass(frozen=True)
class Questioned:
    """One question, or a conversation of Chain-of-Affect with a second one."""

    key: str
    path: str
    prompt: str
    labels: tuple[str, ...]
    two_turns: bool = False


@dataclass(frozen=True)
class Setup:
    """Who answers, how, and where images and answers are. Paths are absolute, and all nodes must reach them."""

    kind: Literal["vllm", "endpoint", "classifier"]
    model: str
    image_root: str
    image_size: int
    """Side that images are resized to; 0: as they are. A classifier resizes them itself."""
    sampling: Sampling
    parts: str
    endpoint: str = ""
    concurrency: int = 16
    per_minute: float = 0
    trust_remote_code: bool = False
    device: str = "auto"


def generate(questions: Sequence[Questioned], setup: Setup, workers: int) -> Iterator[int]:
    """Answer questions on ``workers`` engines (0: one per GPU, else one); yields how many more are done.

    Answers, and the errors of images that can't be read, are in new files of ``setup.parts``. Raises UserError.
    """
    if setup.kind == "endpoint":
        yield from Asker(setup).ask(questions)
    else:
        yield from _on_ray(questions, setup, workers)


class Asker:
    """One engine, and the file of its answers. Ray Data calls it with batches of questions as JSON."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.images = ImageRoot(setup.image_root)
        self.engine: tuple[Answerer, Part] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        questions = [Questioned(**json.loads(text)) for text in batch["question"]]
        return {"done": np.array([sum(self.ask(questions))])}

    def ask(self, questions: Sequence[Questioned]) -> Iterator[int]:
        """Answer questions, each written as soon as it is answered; yields 1 for each."""
        if self.engine is None:  # not before the first question: a mistake is then told to whoever asks
            answerer = open_answerer(self.setup)
            self.engine = answerer, Part(Path(self.setup.parts), _device(self.setup))
        answerer, part = self.engine
        loaded = enumerate(read_ahead(self._load, questions))
        first: dict[int, Answer] = {}  # first turns of conversations that have a second one
        images: dict[int, bytes] = {}
        pending: deque[tuple[int, Ask]] = deque()

        def fill() -> int:
            """Have questions ready; how many failed for their image."""
            failed = 0
            while len(pending) < AHEAD and (item := next(loaded, None)):
                number, (question, image) = item
                if isinstance(image, BadRow):
                    part.error(question.key, str(image))
                    failed += 1
                    continue
                if question.two_turns:
                    images[number] = image
                pending.append((number, Ask(image, question.prompt, labels=tuple(question.labels))))
            return failed

        yield from [1] * fill()
        for number, answer in answerer.stream(pending, self.setup.sampling):
            question = questions[number]
            if question.two_turns and number not in first and (then := _follow_up(question, answer, images[number])):
                first[number] = answer
                pending.appendleft((number, then))
            elif answer.fault is not None:
                part.error(question.key, answer.fault)
                yield 1
            else:
                turns = [first.pop(number), answer] if number in first else [answer]
                part.answer(
                    question.key,
                    [turn.text.strip() for turn in turns],
                    sum(turn.prompt_tokens for turn in turns),
                    sum(turn.answer_tokens for turn in turns),
                )
                images.pop(number, None)
                yield 1
            yield from [1] * fill()

    def _load(self, question: Questioned) -> bytes | BadRow:
        image = load_image(lambda: self.images.read(question.path))
        if isinstance(image, BadRow) or self.setup.kind == "classifier" or not self.setup.image_size:
            return image
        side = self.setup.image_size
        file = io.BytesIO()
        # Bicubic, as qwen-vl-utils does it in UniFER's inference script.
        Image.fromarray(decode_rgb(image)).resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        return file.getvalue()


def _follow_up(question: Questioned, answer: Answer, image: bytes) -> Ask | None:
    """The second question, which names the first answer; None where that names no label."""
    if answer.fault is not None or (label := read_label(answer.text, question.labels)) == UNKNOWN:
        return None
    rest = tuple(each for each in question.labels if each != label)
    prompt = second_turn(label, question.labels)
    return Ask(image, prompt, before=((question.prompt, answer.text.strip()),), labels=rest)


def open_answerer(setup: Setup) -> Answerer:
    """Whoever answers: an engine that is ready, or a client of an endpoint. Raises UserError."""
    if setup.kind == "endpoint":
        return Endpoint(setup.endpoint, setup.model, setup.concurrency, setup.per_minute)
    if setup.kind == "classifier":
        from fer.inference.classifier import ClassifierAnswerer

        return ClassifierAnswerer(Path(setup.model), setup.device)
    # The length that memory has room for, up to the model's own.
    return Engine(setup.model, trust_remote_code=setup.trust_remote_code, max_model_len=-1)


def _device(setup: Setup) -> str:
    if setup.kind == "endpoint":
        return setup.endpoint
    import torch

    on_gpu = torch.cuda.is_available() and setup.device != "cpu"
    return torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} CPUs"


def _on_ray(questions: Sequence[Questioned], setup: Setup, workers: int) -> Iterator[int]:
    gpus = int(ray.cluster_resources().get("GPU", 0)) if setup.device != "cpu" else 0
    if setup.device == "gpu" and not gpus:
        raise UserError("--device gpu: the cluster has none")
    workers = min(workers or gpus or 1, len(questions))
    size = min(TASK, math.ceil(len(questions) / workers))
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns of what we ask for below
    rows = [{"question": json.dumps(asdict(question))} for question in questions]
    data = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / size))
    data.context.enable_progress_bars = False
    answers = data.map_batches(
        Asker,
        fn_constructor_args=(setup,),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1 if gpus else _cores(workers),
        num_gpus=1 if gpus else 0,
    )
    try:
        for row in answers.iter_rows():
            yield int(row["done"])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _cores(workers: int) -> int:
    """CPUs of one of ``workers`` engines, such that all fit on the smallest node and one CPU is left for reading."""
    smallest = min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    return max(1, int(smallest - 1) // workers)
