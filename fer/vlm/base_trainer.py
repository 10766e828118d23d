"""What supervised fine-tuning and GRPO have in common: the DeepSpeed engine, the trainer state and checkpoints."""

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

from fer.registry import MODEL
from fer.tracking import Run
from fer.training.checkpoint import TrainerState, read_state, write_state
from fer.training.flops import peak_flops
from fer.training.worker import Worker
from fer.vlm.deepspeed import full_state_dict, init_engine, load_deepspeed_config, load_engine_state, save_engine_state
from fer.vlm.loss import supports_logits_to_keep
from fer.vlm.model import count_parameters, load_model, load_processor, prepare_for_training, set_trainable
from fer.vlm.options import VlmTrainingOptions


class BaseTrainer:
    """One worker of a training run. Subclasses add the training loop."""

    def __init__(self, config: VlmTrainingOptions, model: str, worker: Worker, run: Run) -> None:
        torch.manual_seed(config.seed)
        self.options, self.model, self.worker, self.tracking = config, model, worker, run
        self.processor = load_processor(model, config.trust_remote_code)
        self.state = TrainerState(world_size=worker.world_size)

    def setup(self, total_steps: int, *, batch_size: int, grad_accum_steps: int) -> None:
        """Load the model and initialise DeepSpeed. ``total_steps`` is the run's number of optimizer steps."""
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
        """The learning-rate schedule over all steps of the run."""
        from transformers import get_scheduler

        warmup = round(self.options.warmup * self.total_steps)
        return get_scheduler(self.options.scheduler, optimizer, warmup, self.total_steps)

    @property
    def learning_rate(self) -> float:
        return self.engine.get_lr()[0]

    @property
    def flops_factor(self) -> float:
        """FLOPs of a training step relative to a forward pass: 2, plus the trainable share of the weights."""
        return 2 + self.parameter_counts["trainable"] / sum(
            self.parameter_counts[part] for part in ("vision", "projector", "language")
        )

    def memory_gb(self) -> float:
        """Peak device memory of this worker in GB; on CPUs the resident memory of its process."""
        if self.worker.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return psutil.Process().memory_info().rss / 1e9

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, as float64 on the CPU. Collective: every worker must call it."""
        values = values.to(self.worker.device, torch.float64)
        dist.all_reduce(values)
        return values.cpu()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def adapters_only(self) -> bool:
        return self.options.lora != "off"

    def save_checkpoint(self, metrics: dict[str, float]) -> None:
        """Report metrics and a sharded checkpoint to Ray Train. Collective: every worker must call it."""
        folder = Path(tempfile.mkdtemp(prefix="ferry-checkpoint-"))
        save_engine_state(self.engine, folder, self.adapters_only)
        if self.worker.is_rank_zero:
            write_state(folder, self.state)
        ray.train.report(
            {"step": self.state.global_step, **metrics},
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,  # training continues while storage is written
            delete_local_checkpoint_after_upload=True,
        )

    def save_final_model(self) -> None:
        """Report the final model as a folder that transformers, PEFT and vLLM load. Collective."""
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
        """Load this run's latest checkpoint, else the checkpoint folder ``resume``, if any."""
        checkpoint = ray.train.get_checkpoint() or (Checkpoint.from_directory(resume) if resume else None)
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            state = read_state(Path(name))
            assert state.world_size == self.worker.world_size, "run settings are fixed, and --resume was checked"
            if not state.finished:
                load_engine_state(self.engine, Path(name), self.adapters_only)
            self.state = state
