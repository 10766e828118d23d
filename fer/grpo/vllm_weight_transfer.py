"""The engine's end of weight sync: vLLM's weight-transfer interface (start, update, finish) over our process group.

vLLM's own transfer backends need GPUs; this one runs on gloo and on NCCL alike. Start and finish make vLLM rebuild its
fused and prepacked weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from fer.grpo.weight_sync import TIMEOUT, TensorSpec, create_process_group, merge_adapters, receive_weights


@dataclass
class ProcessGroupInfo(WeightTransferInitInfo):
    """Address of the trainers' store, and this engine's rank in the process group."""

    host: str
    port: int
    rank: int
    world_size: int


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The weights that come next: the model's own, or adapters to merge into base weights that came before."""

    specs: list[TensorSpec]
    adapters: bool = False
    keep_base: bool = False
    """Keep a copy of the weights on the host, to merge adapters into."""
    scaling: dict[str, float] = field(default_factory=dict)


class ProcessGroupTransfer(WeightTransferEngine[ProcessGroupInfo, UpdateInfo]):
    """Receives weights by broadcast from the trainer of rank 0."""

    init_info_cls = ProcessGroupInfo
    update_info_cls = UpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group: Any = None
        self.store: dist.TCPStore | None = None
        self.base: dict[str, Tensor] = {}

    def init_transfer_engine(self, init_info: ProcessGroupInfo) -> None:
        self.shutdown()
        host, port, world_size = init_info.host, init_info.port, init_info.world_size
        self.store = dist.TCPStore(host, port, world_size, is_master=False, timeout=TIMEOUT)
        self.group = create_process_group(self.store, init_info.rank, world_size, self.device)

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":  # torch has no accelerator to synchronise there
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        load: Any = self.model.load_weights
        adapters: dict[str, Tensor] = {}
        for bucket in receive_weights(self.group, update_info.specs, self.device):
            if update_info.adapters:
                adapters.update(bucket)
                continue
            load(bucket)
            if update_info.keep_base:
                self.base.update((name, weight.to("cpu", copy=True)) for name, weight in bucket)
        if update_info.adapters:
            load(merge_adapters(self.base, adapters, update_info.scaling))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        if self.group is not None:
            self.group.shutdown()
            self.group = self.store = None
