"""What supervised fine-tuning and GRPO have in common: the DeepSpeed engine, the trainer state and checkpoints."""

from __future__ import annotations

import platform
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from torch import Tensor

from fer.cpus import has_fast_bf16
from fer.errors import UserError
from fer.registry import MODEL
from fer.tracking import Run
from fer.training.checkpoint import TrainerState, read_state, write_state
from fer.training.flops import peak_flops
from fer.training.preemption import PreemptionNotice
from fer.training.profile import StepProfiler
from fer.training.worker import Worker
from fer.vlm.deepspeed import (
    TAG,
    full_state_dict,
    init_engine,
    load_deepspeed_config,
    load_engine_state,
    save_engine_state,
)
from fer.vlm.memory import needs_checkpointing
from fer.vlm.model import count_parameters, load_model, load_processor, prepare_for_training, set_trainable
from fer.vlm.options import VlmTrainingOptions
from fer.vlm.reshard import load_other_workers_state
from fer.vlm.scoring import install_head
from fer.vlm.shared_images import share_images


class BaseTrainer:
    """One worker of a training run. Subclasses add the training loop."""

    def __init__(self, config: VlmTrainingOptions, model: str, worker: Worker, run: Run, resume: str | None) -> None:
        """``resume``: the checkpoint folder that a new run starts from, if any."""
        torch.manual_seed(config.seed)
        self.options, self.model, self.worker, self.tracking, self.resume = config, model, worker, run, resume
        self.processor = load_processor(model, config.trust_remote_code)
        self.state = TrainerState(world_size=worker.world_size)
        self.notice = PreemptionNotice(worker)
        self.profiler = StepProfiler(config.profile and worker.is_rank_zero, run)

    def setup(self, total_steps: int, *, batch_size: int, grad_accum_steps: int) -> None:
        """Load the model, initialise DeepSpeed, and restore the state of this run's latest checkpoint, or ``resume``.

        ``total_steps`` is the run's number of optimizer steps.
        """
        self.total_steps = total_steps
        checkpoint = self.worker.get_checkpoint()
        if checkpoint is None and self.resume:
            checkpoint = Checkpoint.from_directory(self.resume)
        with checkpoint.as_directory() if checkpoint else nullcontext() as name:
            saved_by = self.worker.world_size
            if name is not None:
                self.state = read_state(Path(name))
                saved_by = self.state.world_size
                if saved_by != self.worker.world_size and not self.state.finished:
                    self.divide_rest_of_epoch()
                    self.state.world_size = self.worker.world_size
            if name is None or self.state.finished:
                self._init_engine(self.model, batch_size, grad_accum_steps)
            elif not (Path(name) / TAG).is_dir():  # --save-only-model
                self._init_engine(str(Path(name) / MODEL), batch_size, grad_accum_steps)
                skip_steps(self.engine.lr_scheduler, self.state.global_step)
            else:
                self._init_engine(self.model, batch_size, grad_accum_steps)
                if saved_by == self.worker.world_size:
                    load_engine_state(self.engine, Path(name), self.adapters_only)
                else:
                    load_other_workers_state(self.engine, Path(name) / TAG)
                    self.engine.global_steps = self.state.global_step
                    skip_steps(self.engine.lr_scheduler, self.state.global_step)

    def divide_rest_of_epoch(self) -> None:
        """Change ``state``, which ``state.world_size`` workers saved, to the position at which this group continues."""
        raise NotImplementedError

    def _init_engine(self, model: str, batch_size: int, grad_accum_steps: int) -> None:
        config = self.options
        slow = config.precision == "bf16" and self.worker.device.type == "cpu" and not has_fast_bf16()
        if slow and self.worker.is_rank_zero:
            print("this CPU is slow in bf16: --precision fp32 is several times as fast", flush=True)
        settings = load_deepspeed_config(
            config.deepspeed,
            batch_size=batch_size,
            grad_accum_steps=grad_accum_steps,
            clip_grad=config.clip_grad,
            bf16=config.precision == "bf16",
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
        network = set_trainable(load_model(model, config), config, config)
        self.share_images = share_images(network)
        install_head(network)
        self.parameter_counts = count_parameters(network)
        self.engine = init_engine(
            prepare_for_training(network, self._grad_checkpointing()),
            settings,
            self._schedule,
            self.worker.device,
        )
        self.peak_flops = peak_flops(self.worker.device, config.peak_tflops)

    def _grad_checkpointing(self) -> bool:
        config = self.options
        if config.grad_checkpointing is not None:
            return config.grad_checkpointing
        without = config.model_copy(update={"grad_checkpointing": False})
        return needs_checkpointing(self.estimate_memory(without), self.worker)

    def estimate_memory(self, options: Any) -> float:
        """Estimated peak bytes of this worker under these options of the trainer's kind."""
        raise NotImplementedError

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

    def save_checkpoint(self, metrics: dict[str, float], with_model: bool = False) -> None:
        """Report metrics and a sharded checkpoint to Ray Train. Collective: every worker must call it.

        ``with_model``: it also has the model as a folder that transformers, PEFT and vLLM load.
        """
        folder = Path(tempfile.mkdtemp(prefix="ferry-checkpoint-", dir=self._staging_folder()))
        if self.options.save_only_model or with_model:
            self._write_model(folder)
        if not self.options.save_only_model:
            save_engine_state(self.engine, folder, self.adapters_only)
        if self.worker.is_rank_zero:
            write_state(folder, self.state)
        checkpoint = None
        if any(folder.iterdir()):
            checkpoint = Checkpoint.from_directory(folder)
        else:  # rank 0 wrote all of it
            folder.rmdir()
        ray.train.report(
            {"step": self.state.global_step, **metrics},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,  # training continues while storage is written
            delete_local_checkpoint_after_upload=True,
        )

    def save_final_model(self, metrics: dict[str, float] | None = None) -> None:
        """Report metrics and the final model as a folder that transformers, PEFT and vLLM load. Collective."""
        self.profiler.close()
        self.state.finished = True
        with tempfile.TemporaryDirectory(dir=self._staging_folder()) as name:
            folder, checkpoint = Path(name), None
            self._write_model(folder)
            if self.worker.is_rank_zero:
                write_state(folder, self.state)
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report({"step": self.state.global_step, **(metrics or {})}, checkpoint=checkpoint)

    def _write_model(self, folder: Path) -> None:
        """Write the model, on rank 0 alone, as a folder that transformers, PEFT and vLLM load. Collective."""
        weights = full_state_dict(self.engine)
        if self.worker.is_rank_zero:
            self.engine.module.save_pretrained(folder / MODEL, state_dict=weights)
            self.processor.save_pretrained(folder / MODEL)

    def _staging_folder(self) -> str | None:
        folder = self.options.staging_folder
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--staging-folder {folder}: {error.strerror} on {platform.node()}") from None
        return folder


def skip_steps(schedule: Any, steps: int) -> None:
    """Put a learning-rate schedule where it is after so many optimizer steps."""
    schedule.load_state_dict(schedule.state_dict() | {"last_epoch": steps - 1, "_step_count": steps + 1})
    schedule.step()
