"""A vision-language model in training on one worker: its engine, its state, and its checkpoints.

What supervised fine-tuning and reinforcement learning have in common; each adds its own loop.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psutil
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from torch import Tensor

from fer.tracking import MODEL, Run
from fer.training.checkpoint import TrainerState, read_state, write_state
from fer.training.flops import peak_flops
from fer.training.worker import Worker
from fer.vlm.deepspeed import full_state_dict, init_engine, load_deepspeed_config, load_engine_state, save_engine_state
from fer.vlm.loss import supports_logits_to_keep
from fer.vlm.model import count_parameters, load_model, load_processor, prepare_for_training, set_trainable
from fer.vlm.options import VlmTrainingOptions


class BaseTrainer:
    """The state of a run on one worker, and its verbs: start, restore, report, finish."""

    def __init__(self, config: VlmTrainingOptions, model: str, worker: Worker, run: Run) -> None:
        torch.manual_seed(config.seed)
        self.options, self.model, self.worker, self.tracking = config, model, worker, run
        self.processor = load_processor(model, config.trust_remote_code)
        self.state = TrainerState(world_size=worker.world_size)

    def setup(self, total_steps: int, *, batch_size: int, grad_accum_steps: int) -> None:
        """Load the model and start DeepSpeed for a run of so many optimizer steps."""
        config, self.total_steps = self.options, total_steps
        network = set_trainable(load_model(self.model, config), config, config)
        self.trim_logits = supports_logits_to_keep(network)
        self.parameter_counts = count_parameters(network)
        self.engine = init_engine(
            prepare_for_training(network, config.grad_checkpointing),
            load_deepspeed_config(
                config.deepspeed,
                batch_size=batch_size,
                grad_accum_steps=grad_accum_steps,
                clip_grad=config.clip_grad,
                bf16=config.precision == "bf16",
                lr=config.lr,
                weight_decay=config.weight_decay,
            ),
            self._schedule,
            self.worker.device,
        )
        self.peak_flops = peak_flops(self.worker.device, config.peak_tflops)

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """The learning rate over all steps of the run."""
        from transformers import get_scheduler

        warmup = round(self.options.warmup * self.total_steps)
        return get_scheduler(self.options.scheduler, optimizer, warmup, self.total_steps)

    @property
    def learning_rate(self) -> float:
        return self.engine.get_lr()[0]

    @property
    def flops_factor(self) -> float:
        """Operations of a training step in forward passes: activations twice, and weights once where they learn."""
        return 2 + self.parameter_counts["learning"] / sum(
            self.parameter_counts[part] for part in ("vision", "projector", "language")
        )

    def memory_gb(self) -> float:
        """Peak of this worker's device memory; on CPUs what its process holds now."""
        if self.worker.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return psutil.Process().memory_info().rss / 1e9

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        values = values.to(self.worker.device, torch.float64)
        dist.all_reduce(values)
        return values.cpu()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def adapters_only(self) -> bool:
        return self.options.lora != "off"

    def save_checkpoint(self, figures: dict[str, float]) -> None:
        """Report to Ray Train with a checkpoint, each worker with its shard of it. Every worker must call it."""
        folder = Path(tempfile.mkdtemp(prefix="ferry-checkpoint-"))
        save_engine_state(self.engine, folder, self.adapters_only)
        if self.worker.is_rank_zero:
            write_state(folder, self.state)
        ray.train.report(
            {"step": self.state.global_step, **figures},
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,  # training goes on while storage is written
            delete_local_checkpoint_after_upload=True,
        )

    def save_final_model(self) -> None:
        """The last report: the model alone, as a folder that transformers, PEFT and vLLM load."""
        self.state.finished = True
        weights = full_state_dict(self.engine)
        with tempfile.TemporaryDirectory() as name:
            folder, checkpoint = Path(name), None
            if self.worker.is_rank_zero:
                self.engine.module.save_pretrained(folder / MODEL, state_dict=weights)
                self.processor.save_pretrained(folder / MODEL)
                write_state(folder, self.state)
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report({"step": self.state.global_step}, checkpoint=checkpoint)

    def restore(self, resume: str | None) -> None:
        """Continue from Ray Train's last checkpoint of this run, or from the folder ``resume``."""
        checkpoint = ray.train.get_checkpoint() or (Checkpoint.from_directory(resume) if resume else None)
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            state = read_state(Path(name))
            assert state.world_size == self.worker.world_size, (
                "a run's settings do not change, and --resume was checked"
            )
            if not state.finished:
                load_engine_state(self.engine, Path(name), self.adapters_only)
            self.state = state
