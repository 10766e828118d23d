"""A rollout engine: its start, its speed, whether it agrees with the trainer, and weight sync with checksums."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import Figures
from benchmarks.gpu.rollouts import Setup, perturb, shape_for, trainer_and_engine
from fer.grpo.checksums import SyncReport
from fer.grpo.sync_check import compare_logprobs

SYNCS = 3


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    measure(machine, scratch, figures, tensor_parallel=1)


def run_split(machine: Machine, scratch: Path, figures: Figures) -> None:
    """The same with an engine over two GPUs."""
    if 0 < machine.gpus < 3:
        figures["not run"] = (
            f"two GPUs for the engine and one for the trainer are needed; this machine has {machine.gpus}"
        )
        return
    measure(machine, scratch, figures, tensor_parallel=2)


def measure(machine: Machine, scratch: Path, figures: Figures, tensor_parallel: int) -> None:
    """An engine over so many GPUs: two batches, syncs, and sleep where it shares its GPU."""
    prompts, shape = 32 if machine.gpus else 4, shape_for(machine)
    with trainer_and_engine(shape, machine, scratch, figures, prompts, tensor_parallel=tensor_parallel) as setup:
        for name in ("first batch", "second batch"):  # the first one also compiles and captures graphs
            sample(name, setup, figures)
        sync(setup, figures)
        if setup.config.colocate:
            sleep(setup, figures)


def sample(name: str, setup: Setup, figures: Figures) -> None:
    """Sample all prompts' groups: tokens per second, and how far engine and trainer are apart."""
    started = time.perf_counter()
    outputs = setup.pool.collect(setup.pool.submit(setup.prompts), setup.weights)
    seconds = time.perf_counter() - started
    tokens = sum(len(completion.token_ids) for output in outputs for completion in output.completions)
    figures[f"{name}, tokens/s"] = tokens / seconds


def sync(setup: Setup, figures: Figures) -> None:
    """Send changed weights some times; all checksums are compared each time."""
    reports: list[SyncReport] = []
    check = setup.pool._check_reports

    def record(sent: Mapping[str, int], found: Sequence[SyncReport]) -> int:
        reports.extend(found)
        return check(sent, found)

    setup.pool._check_reports = record  # type: ignore[method-assign]
    seconds = []
    for version in range(1, SYNCS + 1):
        perturb(setup.model)
        started = time.perf_counter()
        assert setup.pool.sync_weights(setup.weights, version) is not None, "a weight sync failed"
        seconds.append(time.perf_counter() - started)
    last = reports[-1]
    figures["sync, s"] = statistics.median(seconds)
    figures["sync, GB/s"] = figures["weights, GB"] / figures["sync, s"]
    figures["checksums"] = (
        f"{len(last.received)} weights arrived; {last.compared} of the engine's parameters compared, "
        f"{last.not_compared} have another form"
    )
    figures["log-probabilities after a sync, mean difference"] = difference(setup)


@torch.no_grad()
def difference(setup: Setup) -> float:
    """Mean absolute difference of the log-probabilities of one group's completions: the image encoder counts, too."""
    from fer.grpo.logprobs import completion_logprobs
    from fer.grpo.prompts import PromptExample
    from fer.vlm.chat import ChatFormat
    from fer.vlm.model import load_processor

    [prompt, *_] = setup.prompts
    [output] = setup.pool.collect(setup.pool.submit([prompt]), setup.weights)
    chat = ChatFormat(load_processor(setup.config.model), setup.config, max_tokens=setup.config.max_prompt_tokens)
    example = PromptExample(prompt, chat.collate_prompts([prompt.text], [prompt.image]), "", "", "")
    ids = [completion.token_ids for completion in output.completions]
    device = setup.pool.worker.device
    logprobs = completion_logprobs(setup.model, example, ids, chat.pad_token_id, device)
    return compare_logprobs(setup.pool, prompt, ids, logprobs)


def sleep(setup: Setup, figures: Figures) -> None:
    """Memory that a sleeping engine gives back, and how long it takes to wake up."""
    device = setup.pool.worker.device
    before = torch.cuda.mem_get_info(device)[0]
    started = time.perf_counter()
    setup.pool.sleep()
    figures["falls asleep in, s"] = time.perf_counter() - started
    figures["gives back, GB"] = (torch.cuda.mem_get_info(device)[0] - before) / 1e9
    sample("after waking up", setup, figures)
    figures["log-probabilities after waking up, mean difference"] = difference(setup)
