"""The engines' side of weight transfer: vLLM's own interface (start, update, finish), over our process group.

vLLM's built-in transfers are for GPUs; this one runs on gloo and on NCCL alike. Its start and finish make vLLM build
its fused and prepacked weights anew.
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

from fer.grpo.weight_sync import TIMEOUT, Meta, merge, open_group, receive


@dataclass
class Meeting(WeightTransferInitInfo):
    """Where trainers and engines meet, and this engine's rank among them."""

    host: str
    port: int
    rank: int
    size: int


@dataclass
class Update(WeightTransferUpdateInfo):
    """What comes next: whole weights, or adapters to be added to those that came before."""

    metas: list[Meta]
    adapters: bool = False
    keep: bool = False
    """Keep the weights, on the host, for adapters to be added to."""
    scaling: dict[str, float] = field(default_factory=dict)


class Transfer(WeightTransferEngine[Meeting, Update]):
    """One engine's end."""

    init_info_cls = Meeting
    update_info_cls = Update

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.group: Any = None
        self.store: dist.TCPStore | None = None
        self.base: dict[str, Tensor] = {}

    def init_transfer_engine(self, init_info: Meeting) -> None:
        self.shutdown()
        self.store = dist.TCPStore(init_info.host, init_info.port, init_info.size, is_master=False, timeout=TIMEOUT)
        self.group = open_group(self.store, init_info.rank, init_info.size, self.device)

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":  # torch has no accelerator to wait for there
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Update) -> None:
        load: Any = self.model.load_weights
        news: dict[str, Tensor] = {}
        for bucket in receive(self.group, update_info.metas, self.device):
            if update_info.adapters:
                news.update(bucket)
                continue
            load(bucket)
            if update_info.keep:
                self.base.update((name, weight.to("cpu", copy=True)) for name, weight in bucket)
        if update_info.adapters:
            load(merge(self.base, news, update_info.scaling))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        if self.group is not None:
            self.group.shutdown()
            self.group = self.store = None
