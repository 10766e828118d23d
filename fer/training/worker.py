"""A training worker: rank, device, compute threads, collectives and mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from ray.train.collective import barrier, broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model
from torch import Tensor, nn

from fer.cpus import cpu_count
from fer.training.allocator import reuse_freed_memory
from fer.training.options import LaunchOptions


@dataclass(frozen=True)
class Worker:
    """One process of a Ray Train worker group; or a single process without Ray Train."""

    rank: int
    world_size: int
    device: torch.device
    report_fn: Callable[..., None] | None = None
    """Called in place of `ray.train.report` in a process that Ray Train does not run."""

    @classmethod
    def start(cls, options: LaunchOptions, report_fn: Callable[..., None] | None = None) -> Worker:
        """Join the worker group and set the compute threads: by default the machine's CPUs shared by its workers.

        With ``report_fn`` there is no group: this process is the only worker, and Ray Train does not run it.
        """
        if report_fn is not None:
            torch.set_num_threads(options.threads or cpu_count())
            gpu = options.device != "cpu" and torch.cuda.is_available()
            return cls(0, 1, prepare_device(torch.device("cuda" if gpu else "cpu")), report_fn)
        context = ray.train.get_context()
        threads = options.threads or max(1, cpu_count() // context.get_local_world_size())
        torch.set_num_threads(threads)
        return cls(context.get_world_rank(), context.get_world_size(), prepare_device(get_device()))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this worker logs, prints and saves for the group."""
        return self.rank == 0

    def prepare_model(self, model: nn.Module) -> Any:
        """The model on this worker's device; with several workers, wrapped in DistributedDataParallel."""
        return model if self.report_fn else prepare_model(model)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every worker. Collective: every worker must call it."""
        return value if self.report_fn else broadcast_from_rank_zero(value)

    def barrier(self) -> None:
        """Wait until every worker has called it."""
        if not self.report_fn:
            barrier()

    def report(self, metrics: dict[str, Any], checkpoint: Checkpoint | None) -> None:
        """Report metrics and, from rank 0, a checkpoint. Collective: every worker must call it."""
        (self.report_fn or ray.train.report)(metrics, checkpoint=checkpoint)

    def get_checkpoint(self) -> Checkpoint | None:
        """The latest checkpoint of this run; None at its start."""
        return None if self.report_fn else ray.train.get_checkpoint()


def prepare_device(device: torch.device) -> torch.device:
    """The device; on a CPU, this process keeps its freed memory from now on, and a GPU multiplies float32 matrices in
    TF32, as PyTorch's convolutions do by default.

    TF32 rounds factors to 10 bits of mantissa, of which bfloat16 has 7, and is several times as fast. Mixed precision
    leaves little in float32, so this matters without it. cuDNN's benchmark mode stays off: after a restart, it may
    choose other kernels.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    else:
        reuse_freed_memory()
    return device


def broadcast_buffers(model: nn.Module) -> None:
    """Give every worker rank 0's floating-point buffers, such as BatchNorm statistics. Collective."""
    if torch.distributed.is_initialized():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                torch.distributed.broadcast(buffer, src=0)


def sum_over_workers(values: Tensor) -> Tensor:
    """``values``, which become the sum of all workers' values. Collective: every worker must call it."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
