"""What a training worker is: its rank, its device, its threads and its precision."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from ray.train.collective import barrier, broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model
from ray.train.v2._internal.execution import context as report_context
from torch import nn

from fer.training.options import LaunchOptions


@dataclass(frozen=True)
class Worker:
    """One process of a Ray Train group."""

    rank: int
    workers: int
    device: torch.device
    send: Callable[..., None] | None = None
    """Who gets the reports of a worker that is alone, in a process that is not Ray Train's."""

    @classmethod
    def start(cls, options: LaunchOptions, send: Callable[..., None] | None = None) -> Worker:
        """Join the group and set the compute threads: by default the machine's cores shared among its workers.

        With ``send`` there is no group: this process, which is not one of Ray Train's, does all the work.
        """
        # Their progress lines would drown the job's own; one of Ray Train's loggers is named after its file.
        for name in ("ray.train", "ray.data", report_context.__file__):
            logging.getLogger(name).setLevel(logging.WARNING)
        if send is not None:
            torch.set_num_threads(options.threads or os.cpu_count() or 1)
            gpu = options.device != "cpu" and torch.cuda.is_available()
            return cls(0, 1, torch.device("cuda" if gpu else "cpu"), send)
        context = ray.train.get_context()
        threads = options.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
        torch.set_num_threads(threads)
        return cls(context.get_world_rank(), context.get_world_size(), get_device())

    def prepare(self, model: nn.Module) -> Any:
        """The model as this worker trains it: in a group of several with gradients averaged over them."""
        return model if self.send else prepare_model(model)

    def share(self, value: Any) -> Any:
        """The leading worker's value, for all of them. Every worker must call it."""
        return value if self.send else broadcast_from_rank_zero(value)

    def wait(self) -> None:
        """Go on when every worker has come here."""
        if not self.send:
            barrier()

    def report(self, metrics: dict[str, Any], checkpoint: Checkpoint | None) -> None:
        """Report figures and, from the leading worker, a checkpoint. Every worker must call it."""
        (self.send or ray.train.report)(metrics, checkpoint=checkpoint)

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint of this run that Ray Train keeps."""
        return None if self.send else ray.train.get_checkpoint()

    @property
    def leads(self) -> bool:
        """Whether this worker speaks for the group: it logs, prints and saves."""
        return self.rank == 0


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The type of mixed precision: bfloat16 where the device has it, float16 on older GPUs, None on older CPUs."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
