"""What a training worker is: its rank, its device, its threads and its precision."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import ray.train
import torch
from ray.train.torch import get_device
from ray.train.v2._internal.execution import context as report_context

from fer.training.options import LaunchOptions


@dataclass(frozen=True)
class Worker:
    """One process of a Ray Train group."""

    rank: int
    workers: int
    device: torch.device

    @classmethod
    def start(cls, options: LaunchOptions) -> Worker:
        """Join the group and set the compute threads: by default the machine's cores shared among its workers."""
        # Their progress lines would drown the job's own; one of Ray Train's loggers is named after its file.
        for name in ("ray.train", "ray.data", report_context.__file__):
            logging.getLogger(name).setLevel(logging.WARNING)
        context = ray.train.get_context()
        threads = options.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
        torch.set_num_threads(threads)
        return cls(context.get_world_rank(), context.get_world_size(), get_device())

    @property
    def leads(self) -> bool:
        """Whether this worker speaks for the group: it logs, prints and saves."""
        return self.rank == 0


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The type of mixed precision: bfloat16 where the device has it, float16 on older GPUs, None on older CPUs."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
