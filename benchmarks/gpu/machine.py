"""What a part finds to run on."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """The GPUs of this machine; without any, parts run with tiny models on its CPUs."""

    gpus: int
    memory: float
    """Bytes of each GPU, or of the least."""

    @property
    def device(self) -> str:
        """For options such as ``--device``."""
        return "gpu" if self.gpus else "cpu"

    @property
    def torch_device(self) -> torch.device:
        """Of a trainer in the part's own process: the last GPU, because Ray gives an engine the first."""
        return torch.device("cuda", self.gpus - 1) if self.gpus else torch.device("cpu")

    @property
    def shares_gpu(self) -> bool:
        """Whether a trainer and an engine have to be on the same GPU."""
        return self.gpus == 1


def find_machine() -> Machine:
    gpus = torch.cuda.device_count()
    memory = min((torch.cuda.get_device_properties(i).total_memory for i in range(gpus)), default=0)
    return Machine(gpus, memory)
