"""The engine's end of weight sync: vLLM's weight-transfer interface (start, update, finish) over our process group.

vLLM's own transfer backends need GPUs; this one runs on gloo and on NCCL alike. Start and finish make vLLM rebuild its
fused and prepacked weights; then they are compared with what arrived.

With tensor parallelism, each rank of an engine is a process with a part of the weights. All of them join the process
group and receive all weights, and vLLM loads the part of each.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from fer.grpo.adapters import load_adapters, save_adapters
from fer.grpo.checksums import RankReport, WeightLoader, checksum, to_ints
from fer.grpo.communicator import Communicator, Deadline, TransferError
from fer.grpo.reload_warnings import show_warnings, without_expected_warnings
from fer.grpo.weight_sync import TensorSpec, merge_adapters, receive_weights

BACKEND = "ferry"
"""Name of this backend among vLLM's."""


@dataclass
class ProcessGroupInfo(WeightTransferInitInfo):
    """Address of the trainers' store, and the rank in the process group."""

    host: str
    port: int
    rank: int
    world_size: int
    timeout: float
    """Seconds that one update may take."""
    through_host: bool = False
    """Whether the trainers are on this GPU, too."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The weights that come next: the model's own, or adapters to merge into base weights that came before."""

    specs: list[TensorSpec]
    bucket_bytes: int
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
        self.communicator: Communicator | None = None
        self.store: dist.TCPStore | None = None
        self.timeout = 0.0
        self.base: dict[str, Tensor] = {}
        self.loader = WeightLoader(self.model)

    def init_transfer_engine(self, init_info: ProcessGroupInfo) -> None:
        self.shutdown()
        host, port, world_size = init_info.host, init_info.port, init_info.world_size
        self.timeout = init_info.timeout
        wait = timedelta(seconds=self.timeout)
        self.store = dist.TCPStore(host, port, world_size, is_master=False, timeout=wait)
        self.communicator = Communicator(
            self.store, init_info.rank, world_size, self.device, self.timeout, init_info.through_host
        )

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)
        self.loader.start()
        self.received: dict[str, Tensor] = {}
        self.whole = False

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":  # torch has no accelerator to synchronise there
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        adapters: dict[str, Tensor] = {}
        for bucket in self._receive(update_info):
            self.received.update((name, checksum(weight)) for name, weight in bucket)
            if update_info.adapters:
                adapters.update(bucket)
                continue
            self.loader.load(bucket)
            if update_info.keep_base:
                self.base.update((name, _to_host(weight)) for name, weight in bucket)
        if update_info.adapters:
            self.loader.load(merge_adapters(self.base, adapters, update_info.scaling))
        self.whole = not (update_info.adapters or update_info.keep_base)

    def receive_adapters(self, update_info: dict[str, Any]) -> dict[str, Tensor]:
        """The adapters of an update, which are not merged into the model."""
        return dict(pair for bucket in self._receive(self.parse_update_info(update_info)) for pair in bucket)

    def _receive(self, info: UpdateInfo) -> Iterator[list[tuple[str, Tensor]]]:
        if self.communicator is None:
            raise TransferError("the engine has no connection to the trainers: it was restarted")
        return receive_weights(self.communicator, info.specs, Deadline(self.timeout), info.bucket_bytes)

    def finish_weight_update(self) -> None:
        with without_expected_warnings(self.model, self.whole):
            finalize_layerwise_reload(self.model, self.model_config)

    def abort(self) -> None:
        """End a transfer that is under way, here and in all other processes."""
        if self.communicator is not None:
            self.communicator.abort()

    def shutdown(self) -> None:
        if self.communicator is not None:
            self.communicator.close()
        self.communicator = self.store = None


WeightTransferEngineFactory.register_engine(BACKEND, ProcessGroupTransfer)


def _errors_returned(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return an error as text instead of raising it, and end the transfer for all others.

    Of a call that fails, vLLM reads no results after the first error, and takes them for those of the next call.
    """

    @wraps(method)
    def call(worker: Any, *arguments: Any) -> Any:
        try:
            return method(worker, *arguments)
        except Exception as error:
            worker.weight_transfer_engine.abort()
            return str(error) if isinstance(error, TransferError) else traceback.format_exc()

    return call


class TransferWorker:
    """Methods that vLLM adds to its worker, of which each rank has one (``worker_extension_cls``)."""

    @_errors_returned
    def join_trainers(self: Any, info: dict[str, Any]) -> None:
        """Join the trainers' process group. ``info``: fields of `ProcessGroupInfo`, with the engine's first rank."""
        show_warnings()
        self.init_weight_transfer_engine(info | {"rank": info["rank"] + self.rank})

    @_errors_returned
    def receive_weights(self: Any, info: dict[str, Any]) -> RankReport:
        """Receive weights into the model. ``info``: the fields of `UpdateInfo`."""
        self.start_weight_update()
        self.update_weights(info)
        self.finish_weight_update()
        transfer = self.weight_transfer_engine
        return transfer.loader.report(transfer.received, transfer.whole)

    @_errors_returned
    def receive_adapters(self: Any, info: dict[str, Any], folder: Path, lora_rank: int, lora_alpha: int) -> RankReport:
        """Receive adapters, and save them in a folder that all ranks can load."""
        adapters = self.weight_transfer_engine.receive_adapters(info)
        if self.rank == 0:
            save_adapters(folder, adapters, lora_rank, lora_alpha)
        return RankReport(to_ints({name: checksum(weight) for name, weight in adapters.items()}), {}, {}, [])

    @_errors_returned
    def load_adapters(self: Any, folder: Path) -> list[str]:
        """See `fer.grpo.adapters.load_adapters`."""
        return load_adapters(self, folder)


def _to_host(weight: Tensor) -> Tensor:
    """A copy in the host's memory, pinned where there is a GPU: merging adapters copies it back at every sync."""
    return torch.empty_like(weight, device="cpu", pin_memory=weight.is_cuda).copy_(weight)
