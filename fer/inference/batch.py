"""Batch inference: model replicas on Ray Data, or an endpoint. Every response is on disk as soon as it is complete."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import ray
import ray.data
import ray.exceptions

from fer.answers import UNKNOWN, parse_label
from fer.cpus import cpu_count
from fer.data.images import check_header, decode_rgb, decode_untrusted
from fer.data.stream.prefetch import prefetch, read_verified
from fer.data.vqa.prompts import second_turn_prompt
from fer.data.vqa.questions import ImageRoot, Turn
from fer.errors import BadRow, UserError
from fer.inference.base import InferenceClient, Request, Response, SamplingParams
from fer.inference.images import encode_for_model
from fer.inference.journal import JournalWriter
from fer.inference.openai import OpenAIClient
from fer.inference.vllm import QUIET, VllmClient
from fer.models.ray_device import cluster_gpus
from fer.registry import resolve_model
from fer.tracking import TrackingOptions

BLOCK_SIZE = 512
"""Items per Ray Data block; within a block the client never idles."""


@dataclass(frozen=True)
class BatchItem:
    """One prompt about an image file, or a two-turn conversation of Chain-of-Affect."""

    key: str
    path: str
    prompt: str
    labels: tuple[str, ...]
    two_turns: bool = False


@dataclass(frozen=True)
class InferenceConfig:
    """Which model, its generation settings, and where images and journals are.

    Paths are absolute and must be reachable from all nodes.
    """

    kind: Literal["vllm", "endpoint", "classifier"]
    model: str
    """Its name at the endpoint; else a name by which each node can get it, or its folder."""
    image_root: str
    image_size: int
    """Side in pixels that images are resized to; 0 keeps their size. A classifier resizes them itself."""
    sampling: SamplingParams
    journal: str
    """Folder of the journals, a path or URI."""
    tracking: TrackingOptions
    """Where registered models and those of runs are."""
    endpoint: str = ""
    concurrency: int = 16
    requests_per_minute: float = 0
    trust_remote_code: bool = False
    device: str = "auto"
    dtype: str = "auto"
    """Data type in which vLLM runs the model; auto: its own."""


def run_batch(items: Sequence[BatchItem], config: InferenceConfig, workers: int) -> Iterator[int]:
    """Run inference on ``workers`` replicas (0: one per GPU, else one); yields the number of items just completed.

    Responses, and errors such as unreadable images, go to new files in ``config.journal``. Raises UserError.
    """
    if config.kind == "endpoint":
        yield from BatchWorker(config).process(items)
    else:
        yield from _run_on_ray(items, config, workers)


class BatchWorker:
    """One client and its journal. Ray Data calls it with blocks of items as JSON."""

    def __init__(self, config: InferenceConfig) -> None:
        self.config = config
        self.images = ImageRoot(config.image_root)
        self.opened: tuple[InferenceClient, JournalWriter] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        items = [BatchItem(**json.loads(text)) for text in batch["item"]]
        return {"completed": np.array([sum(self.process(items))])}

    def process(self, items: Sequence[BatchItem]) -> Iterator[int]:
        """Run all items and journal each one as it completes; yields 1 for each."""
        if self.opened is None:  # lazily: an error in an actor's constructor would not reach the caller as it is
            client = open_client(self.config)
            self.opened = client, JournalWriter(self.config.journal, _device_name(self.config))
        client, journal = self.opened
        try:
            yield from self._process(items, client, journal)
        finally:
            journal.close()

    def _process(self, items: Sequence[BatchItem], client: InferenceClient, journal: JournalWriter) -> Iterator[int]:
        loaded = enumerate(prefetch(self._load, items))
        first_turns: dict[int, Response] = {}  # of conversations whose second turn is running
        images: dict[int, bytes] = {}
        pending: deque[tuple[int, Request]] = deque()

        def fill() -> int:
            """Top up ``pending``; returns the number of items that failed because of their image."""
            failed = 0
            while len(pending) < client.max_running and (entry := next(loaded, None)):
                number, (item, image) = entry
                if isinstance(image, BadRow):
                    journal.write_error(item.key, str(image))
                    failed += 1
                    continue
                if item.two_turns:
                    images[number] = image
                pending.append((number, Request(image, item.prompt, labels=tuple(item.labels))))
            return failed

        yield from [1] * fill()
        for number, response in client.stream(pending, self.config.sampling):
            item = items[number]
            if (
                item.two_turns
                and number not in first_turns
                and (second := _second_turn(item, response, images[number]))
            ):
                first_turns[number] = response
                pending.appendleft((number, second))
            elif response.error is not None:
                journal.write_error(item.key, response.error)
                yield 1
            else:
                turns = [first_turns.pop(number), response] if number in first_turns else [response]
                journal.write_responses(
                    item.key,
                    [turn.text.strip() for turn in turns],
                    sum(turn.prompt_tokens for turn in turns),
                    sum(turn.completion_tokens for turn in turns),
                )
                images.pop(number, None)
                yield 1
            yield from [1] * fill()

    def _load(self, item: BatchItem) -> bytes | BadRow:
        side = 0 if self.config.kind == "classifier" else self.config.image_size
        sent_as_it_is = self.config.kind == "endpoint" and not side
        verify = decode_untrusted if sent_as_it_is else check_header  # the others decode it, here or in the client
        image = read_verified(lambda: self.images.read(item.path), verify)
        if isinstance(image, BadRow) or not side:
            return image
        try:
            pixels = decode_rgb(image)
        except BadRow as error:
            return error
        return encode_for_model(pixels, side, compress=self.config.kind == "endpoint")


def _second_turn(item: BatchItem, response: Response, image: bytes) -> Request | None:
    """The request of the second turn, which names the first response's label; None if that response has no label."""
    if response.error is not None or (label := parse_label(response.text, item.labels)) == UNKNOWN:
        return None
    remaining = tuple(each for each in item.labels if each != label)
    history = (Turn(item.prompt, response.text.strip()),)
    return Request(image, second_turn_prompt(label, item.labels), history, labels=remaining)


def open_client(config: InferenceConfig) -> InferenceClient:
    """Load the model, or connect to the endpoint. Raises UserError."""
    if config.kind == "endpoint":
        return OpenAIClient(config.endpoint, config.model, config.concurrency, config.requests_per_minute)
    if config.kind == "classifier":
        from fer.inference.classifier import ClassifierClient

        return ClassifierClient(resolve_model(config.model, config.tracking), config.device)
    from fer.vlm.merge import resolve_merged

    model = resolve_merged(config.model, config.tracking, config.trust_remote_code)
    # -1: the longest context that fits in memory, up to the model's own.
    return VllmClient(model, trust_remote_code=config.trust_remote_code, max_model_len=-1, dtype=config.dtype)


def _device_name(config: InferenceConfig) -> str:
    if config.kind == "endpoint":
        return config.endpoint
    import torch

    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    return torch.cuda.get_device_name() if on_gpu else f"{cpu_count()} CPUs"


def _run_on_ray(items: Sequence[BatchItem], config: InferenceConfig, workers: int) -> Iterator[int]:
    gpus = cluster_gpus(config.device, workers)
    workers = min(workers or gpus or 1, len(items))
    block_size = min(BLOCK_SIZE, math.ceil(len(items) / workers))
    rows = [{"item": json.dumps(asdict(item))} for item in items]
    data = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / block_size))
    data.context.enable_progress_bars = False
    counts = data.map_batches(
        BatchWorker,
        fn_constructor_args=(config,),
        batch_size=block_size,
        # One block at a time: otherwise the replica that has started first is given the blocks of the others.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=1 if gpus else _cpus_per_worker(workers),
        num_gpus=1 if gpus else 0,
        runtime_env={"env_vars": QUIET},
    )
    try:
        for row in counts.iter_rows():
            yield int(row["completed"])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _cpus_per_worker(workers: int) -> int:
    """CPUs for each of ``workers`` replicas so that all fit on the smallest node with one CPU left for reading."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    smallest = min((node["CPU"] for node in nodes if "CPU" in node), default=1)  # a head may have none
    return max(1, int(smallest - 1) // workers)
