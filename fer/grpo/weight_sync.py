"""Weights from the trainers to vLLM's engines, over a process group of their own: gloo on CPUs, NCCL on GPUs.

The leading trainer is rank 0 of the group, and every engine has a rank after it. Weights travel in buckets of bytes
that both sides cut in the same way, from memory to memory: no file, and no copy in Ray's object store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 64 * 2**20
ALIGN = 16
TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True)
class Meta:
    """Name, dtype and shape of one weight on the wire."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize


def open_group(store: Any, rank: int, size: int, device: torch.device) -> Any:
    """A process group apart from torch's default one."""
    store = dist.PrefixStore("weights", store)
    if device.type == "cpu":
        return dist.ProcessGroupGloo(store, rank, size, TIMEOUT)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = TIMEOUT
    return dist.ProcessGroupNCCL(store, rank, size, options)


def broadcast(group: Any, tensor: Tensor) -> None:
    """From rank 0 to all."""
    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    group.broadcast([tensor], options).wait()


def cut(metas: Sequence[Meta], limit: int = BUCKET_BYTES) -> Iterator[list[tuple[Meta, int]]]:
    """Buckets of weights, each with its place in the bucket's bytes. A weight beyond the limit is one by itself."""
    bucket: list[tuple[Meta, int]] = []
    end = 0
    for meta in metas:
        if bucket and end + meta.bytes > limit:
            yield bucket
            bucket, end = [], 0
        bucket.append((meta, end))
        end += -(-meta.bytes // ALIGN) * ALIGN
    if bucket:
        yield bucket


def size_of(bucket: Sequence[tuple[Meta, int]]) -> int:
    last, start = bucket[-1]
    return start + last.bytes


def view(buffer: Tensor, meta: Meta, start: int) -> Tensor:
    """A weight's place in a bucket's bytes, as a tensor."""
    return buffer[start : start + meta.bytes].view(getattr(torch, meta.dtype)).view(meta.shape)


def send(group: Any, weights: Iterable[tuple[str, Tensor]], metas: Sequence[Meta], device: torch.device) -> None:
    """Broadcast the weights, which must come in the order of ``metas``."""
    source = iter(weights)
    for bucket in cut(metas):
        buffer = torch.empty(size_of(bucket), dtype=torch.uint8, device=device)
        for meta, start in bucket:
            name, weight = next(source)
            assert name == meta.name, (name, meta.name)
            view(buffer, meta, start).copy_(weight.detach())
        broadcast(group, buffer)


def receive(group: Any, metas: Sequence[Meta], device: torch.device) -> Iterator[list[tuple[str, Tensor]]]:
    """What `send` sends, a bucket at a time."""
    for bucket in cut(metas):
        buffer = torch.empty(size_of(bucket), dtype=torch.uint8, device=device)
        broadcast(group, buffer)
        yield [(meta.name, view(buffer, meta, start)) for meta, start in bucket]


class Policy:
    """The weights of a model in training, by the names that vLLM loads them by; gathered where ZeRO-3 cut them up.

    With adapters (LoRA, DoRA), `whole` are the weights that they adapt, as they are without them, and `news` the
    adapters alone: the engine keeps the former and adds the latter.
    """

    GATHERED_AT_ONCE = 64_000_000

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        parameters = dict(module.named_parameters())
        adapted = {name.partition(".lora_")[0] for name in parameters if ".lora_" in name}
        self.dtype = dtype
        self.scaling: dict[str, float] = {}
        if not adapted:
            self.whole = self.news = parameters
            return
        self.whole = {}
        for name, parameter in parameters.items():
            layer, base, kind = name.partition(".base_layer.")
            if base and layer in adapted:
                self.whole[f"{_plain(layer)}.{kind}"] = parameter
        self.news = {_plain(name): parameter for name, parameter in parameters.items() if ".lora_" in name}
        for name in adapted:
            adapter: Any = module.get_submodule(name)
            self.scaling[_plain(name)] = adapter.scaling["default"]

    def metas(self, parameters: Mapping[str, nn.Parameter]) -> list[Meta]:
        dtype = str(self.dtype).removeprefix("torch.")
        return [Meta(name, dtype, tuple(getattr(p, "ds_shape", p.shape))) for name, p in parameters.items()]

    def read(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
        """(name, weight) of each. Under ZeRO-3 every trainer must iterate, all in step, to the end."""
        for group in self._groups(parameters):
            if hasattr(group[0][1], "ds_id"):
                import deepspeed

                with deepspeed.zero.GatheredParameters([p for _, p in group]):
                    yield from ((name, p.data) for name, p in group)
            else:
                yield from ((name, p.data) for name, p in group)

    def _groups(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[list[tuple[str, nn.Parameter]]]:
        group: list[tuple[str, nn.Parameter]] = []
        size = 0
        for name, parameter in parameters.items():
            group.append((name, parameter))
            size += getattr(parameter, "ds_numel", parameter.numel())
            if size > self.GATHERED_AT_ONCE:
                yield group
                group, size = [], 0
        if group:
            yield group


def _plain(name: str) -> str:
    """PEFT's name of a weight without what PEFT adds to it."""
    return name.removeprefix("base_model.model.").replace(".default", "")


def merge(
    base: Mapping[str, Tensor], news: Mapping[str, Tensor], scaling: Mapping[str, float]
) -> Iterator[tuple[str, Tensor]]:
    """The weights of adapted layers with their adapters added (LoRA: Hu et al., 2021; DoRA: Liu et al., 2024)."""
    for name, weight in base.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight":
            a, b = news[f"{layer}.lora_A.weight"], news[f"{layer}.lora_B.weight"]
            whole = weight.to(a.device).float() + scaling[layer] * (b.float() @ a.float())
            magnitude = news.get(f"{layer}.lora_magnitude_vector.weight")
            if magnitude is not None:
                whole *= (magnitude.float() / whole.norm(dim=1))[:, None]
            weight = whole.to(weight.dtype)
        yield name, weight
