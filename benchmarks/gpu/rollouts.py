"""One trainer, which is this process, and one rollout engine with the same model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import IMAGE_SIZE, QWEN_3B, QWEN_7B, TINY, Shape, make_model
from benchmarks.gpu.parts import Figures
from fer.grpo.communicator import Deadline
from fer.grpo.engine_launch import start_engines, wait_until_ready
from fer.grpo.engine_pool import EnginePool
from fer.grpo.options import GrpoConfig
from fer.grpo.preflight import visual_token_ids
from fer.grpo.rollout import Prompt
from fer.grpo.vllm_engine import RolloutEngine
from fer.grpo.weight_sync import PolicyWeights
from fer.training.worker import Worker

NEW_TOKENS = 256
"""Length of nearly all completions on a GPU: a random model hardly ever samples the end token."""


def shape_for(machine: Machine) -> Shape:
    """The 7B model where two copies in bf16 (33 GB) and the KV cache fit one GPU, else the 3B one."""
    if not machine.gpus:
        return TINY
    return QWEN_7B if machine.memory > 70e9 else QWEN_3B


@dataclass
class Setup:
    """Trainer, engine, and prompts for it."""

    pool: EnginePool
    model: Any
    weights: PolicyWeights
    config: GrpoConfig
    prompts: Sequence[Prompt]

    @property
    def engine(self) -> Any:
        return self.pool.actors[0]


@contextmanager
def trainer_and_engine(
    shape: Shape,
    machine: Machine,
    scratch: Path,
    figures: Figures,
    prompts: int,
    engine: type[RolloutEngine] = RolloutEngine,
    tensor_parallel: int = 1,
) -> Iterator[Setup]:
    """They are connected, and the engine has the trainer's weights."""
    from cluster.local import connect
    from fer.data.synthetic import write_faces
    from fer.data.vqa.prompts import ferbench_prompt
    from fer.data.vqa.questions import Turn
    from fer.vlm.chat import ChatFormat
    from fer.vlm.model import load_model, load_processor
    from fer.vlm.options import VlmModelOptions

    folder = str(make_model(shape, machine, scratch))
    side = IMAGE_SIZE if machine.gpus else 56
    config = GrpoConfig(
        data="none",
        model=folder,
        device=machine.device,
        precision="bf16" if machine.gpus else "fp32",
        colocate=machine.shares_gpu,
        gpu_memory_utilization=0.5 if machine.shares_gpu else 0.85,
        tensor_parallel=tensor_parallel,
        num_generations=8,
        image_size=side,
        max_prompt_tokens=512,
        max_new_tokens=NEW_TOKENS if machine.gpus else 24,
        engine_timeout=400,
        sync_timeout=120,
    )
    connect(cpus=2)
    started = time.perf_counter()
    masked = visual_token_ids(config, folder)
    actors = start_engines(config, folder, masked, use_gpu=bool(machine.gpus), engine=engine)
    wait_until_ready(0, actors[0], Deadline(config.engine_timeout))
    figures["start of the engine, s"] = time.perf_counter() - started
    figures["weights travel"] = (
        "between CPU processes, over gloo" if not machine.gpus
        else "through the host, over gloo: one GPU" if machine.shares_gpu
        else "from GPU to GPU, over NCCL"
    )  # fmt: skip

    device = machine.torch_device
    with process_group(device):
        model = load_model(folder, VlmModelOptions(precision=config.precision)).to(device).eval()
        figures["weights, GB"] = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
        weights = PolicyWeights(model, next(model.parameters()).dtype)
        pool = EnginePool(
            actors,
            Worker(0, 1, device),
            config.engine_timeout,
            config.sync_timeout,
            colocated=config.colocate,
            ranks_per_engine=tensor_parallel,
        )
        write_faces(scratch / "faces", per_class=-(-prompts // 7), size=side)
        chat = ChatFormat(load_processor(folder), config, max_tokens=config.max_prompt_tokens)
        text = chat.render_prompt([Turn(ferbench_prompt(["happy", "sad", "angry"]))])
        images = [chat.decode_image(file.read_bytes()) for file in sorted((scratch / "faces").rglob("*.png"))]
        pool.connect(weights, version=0, cancel_requests=True)
        try:
            yield Setup(pool, model, weights, config, [Prompt(text, image) for image in images[:prompts]])
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A default process group of this process alone."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, store=dist.FileStore(f"{folder}/store", 1), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def perturb(model: torch.nn.Module, scale: float = 1e-2) -> None:
    """Change every weight by a share of itself, as an optimizer step changes it (by much less)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + scale)
