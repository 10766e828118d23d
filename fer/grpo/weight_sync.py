"""Weight transfer from the trainers to the vLLM engines, over a communicator of its own (gloo or NCCL).

The trainer of rank 0 is rank 0 of that group, and the engines have the ranks after it. Weights are broadcast in buckets
of bytes that both sides lay out in the same way, from memory to memory: no file, and no copy in Ray's object store.
While a bucket is on its way, the next one is packed and the last one is loaded. Both sides compute checksums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fer.grpo.checksums import checksum, to_ints
from fer.grpo.communicator import Communicator, Deadline

BUCKET_BYTES = 2**30
ALIGNMENT = 16


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (by torch's name, such as "bfloat16") and shape of one weight."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize


def make_buckets(specs: Sequence[TensorSpec], max_bytes: int = BUCKET_BYTES) -> Iterator[list[tuple[TensorSpec, int]]]:
    """Group weights into buckets of at most ``max_bytes``, each weight with its offset in the bucket.

    A weight larger than that has a bucket of its own.
    """
    bucket: list[tuple[TensorSpec, int]] = []
    end = 0
    for spec in specs:
        if bucket and end + spec.nbytes > max_bytes:
            yield bucket
            bucket, end = [], 0
        bucket.append((spec, end))
        end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
    if bucket:
        yield bucket


def bucket_bytes(bucket: Sequence[tuple[TensorSpec, int]]) -> int:
    last, offset = bucket[-1]
    return offset + last.nbytes


def view_tensor(buffer: Tensor, spec: TensorSpec, offset: int) -> Tensor:
    """The part of a bucket's bytes that holds one weight, as a tensor."""
    return buffer[offset : offset + spec.nbytes].view(getattr(torch, spec.dtype)).view(spec.shape)


def send_weights(
    communicator: Communicator,
    weights: Iterable[tuple[str, Tensor]],
    specs: Sequence[TensorSpec],
    deadline: Deadline,
    check: Callable[[], None] = lambda: None,
    max_bytes: int = BUCKET_BYTES,
) -> dict[str, int]:
    """Broadcast the weights, which must come in the order of ``specs``; the checksum of each.

    ``check`` and errors: see `Communicator.wait`.
    """
    source = iter(weights)
    sums: dict[str, Tensor] = {}
    sending: Future[Any] | None = None
    for bucket in make_buckets(specs, max_bytes):
        buffer = pack(bucket, source, sums, communicator.device)
        if sending is not None:
            communicator.wait(sending, deadline, check)
        sending = communicator.start(buffer, deadline)
    if sending is not None:
        communicator.wait(sending, deadline, check)
    return to_ints(sums)


def pack(
    bucket: Sequence[tuple[TensorSpec, int]],
    source: Iterator[tuple[str, Tensor]],
    sums: dict[str, Tensor],
    device: torch.device,
) -> Tensor:
    """The next weights as the bucket's bytes; their checksums are added to ``sums``."""
    buffer = torch.empty(bucket_bytes(bucket), dtype=torch.uint8, device=device)
    for spec, offset in bucket:
        name, weight = next(source)
        assert name == spec.name, (name, spec.name)
        sums[name] = checksum(view_tensor(buffer, spec, offset).copy_(weight.detach()))
    return buffer


def unpack(bucket: Sequence[tuple[TensorSpec, int]], buffer: Tensor) -> list[tuple[str, Tensor]]:
    """A bucket's bytes as (name, weight) pairs."""
    return [(spec.name, view_tensor(buffer, spec, offset)) for spec, offset in bucket]


def receive_weights(
    communicator: Communicator, specs: Sequence[TensorSpec], deadline: Deadline, max_bytes: int = BUCKET_BYTES
) -> Iterator[list[tuple[str, Tensor]]]:
    """The other end of `send_weights`: (name, weight) pairs, a bucket at a time."""
    received: tuple[Sequence[tuple[TensorSpec, int]], Tensor] | None = None
    for bucket in make_buckets(specs, max_bytes):
        buffer = torch.empty(bucket_bytes(bucket), dtype=torch.uint8, device=communicator.device)
        receiving = communicator.start(buffer, deadline)
        if received is not None:
            yield unpack(*received)
        communicator.wait(receiving, deadline)
        received = bucket, buffer
    if received is not None:
        yield unpack(*received)


class PolicyWeights:
    """The weights of a model in training, under the names that vLLM loads them by; gathered where ZeRO-3 shards them.

    ``synced`` are the weights to send after every update: all of them, or with adapters (LoRA, DoRA) the adapters
    alone. ``base`` are the base weights of the adapted layers, which engines need once, to merge adapters into; it is
    empty without adapters, and if they are not ``merged``.
    """

    GATHER_NUMEL = 64_000_000
    """ZeRO-3 gathers about this many weights at once."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, merged: bool = True) -> None:
        parameters = dict(module.named_parameters())
        adapted = {name.partition(".lora_")[0] for name in parameters if ".lora_" in name}
        self.dtype = dtype
        self.base: dict[str, nn.Parameter] = {}
        self.scaling: dict[str, float] = {}
        """The adapters' scaling factor, by layer."""
        if not adapted:
            self.synced = parameters
            return
        for name, parameter in parameters.items():
            layer, is_base, kind = name.partition(".base_layer.")
            if merged and is_base and layer in adapted:
                self.base[f"{_without_peft(layer)}.{kind}"] = parameter
        self.synced = {_without_peft(name): parameter for name, parameter in parameters.items() if ".lora_" in name}
        for name in adapted:
            adapter: Any = module.get_submodule(name)
            self.scaling[_without_peft(name)] = adapter.scaling["default"]

    def specs(self, parameters: Mapping[str, nn.Parameter]) -> list[TensorSpec]:
        dtype = str(self.dtype).removeprefix("torch.")
        return [TensorSpec(name, dtype, tuple(getattr(p, "ds_shape", p.shape))) for name, p in parameters.items()]

    def gather(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
        """(name, weight) of each. Under ZeRO-3 this is a collective: every trainer must iterate to the end."""
        for chunk in self._chunks(parameters):
            if hasattr(chunk[0][1], "ds_id"):
                import deepspeed

                with deepspeed.zero.GatheredParameters([p for _, p in chunk]):
                    yield from ((name, p.data) for name, p in chunk)
            else:
                yield from ((name, p.data) for name, p in chunk)

    def _chunks(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[list[tuple[str, nn.Parameter]]]:
        chunk: list[tuple[str, nn.Parameter]] = []
        numel = 0
        for name, parameter in parameters.items():
            chunk.append((name, parameter))
            numel += getattr(parameter, "ds_numel", parameter.numel())
            if numel > self.GATHER_NUMEL:
                yield chunk
                chunk, numel = [], 0
        if chunk:
            yield chunk


def _without_peft(name: str) -> str:
    """A weight's name without the parts that PEFT adds to it."""
    return name.removeprefix("base_model.model.").replace(".default", "")


def merge_adapters(
    base: Mapping[str, Tensor], adapters: Mapping[str, Tensor], scaling: Mapping[str, float]
) -> Iterator[tuple[str, Tensor]]:
    """The base weights with the adapters merged into them (LoRA: Hu et al., 2021; DoRA: Liu et al., 2024)."""
    for name, weight in base.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight":
            a, b = adapters[f"{layer}.lora_A.weight"], adapters[f"{layer}.lora_B.weight"]
            merged = weight.to(a.device, non_blocking=True).float() + scaling[layer] * (b.float() @ a.float())
            magnitude = adapters.get(f"{layer}.lora_magnitude_vector.weight")
            if magnitude is not None:
                merged *= (magnitude.float() / merged.norm(dim=1))[:, None]
            weight = merged.to(weight.dtype)
        yield name, weight
