"""Weight transfer: both ends lay out buckets alike, and adapters are merged as PEFT merges them."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fer.grpo.checksums import checksum
from fer.grpo.communicator import Communicator, Deadline
from fer.grpo.weight_sync import (
    PolicyWeights,
    TensorSpec,
    bucket_bytes,
    make_buckets,
    merge_adapters,
    pack,
    receive_weights,
    send_weights,
    unpack,
)

CPU = torch.device("cpu")


def make_specs(weights: dict[str, torch.Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for name, w in weights.items()]


SHAPES = st.lists(st.lists(st.integers(1, 6), max_size=3).map(tuple), min_size=1, max_size=12)


@given(SHAPES, st.integers(1, 400))
def test_buckets_hold_every_weight_once_without_overlap(shapes: list[tuple[int, ...]], max_bytes: int) -> None:
    specs = [TensorSpec(str(i), "float32", shape) for i, shape in enumerate(shapes)]
    buckets = list(make_buckets(specs, max_bytes))
    assert [spec for bucket in buckets for spec, _ in bucket] == specs
    for bucket in buckets:
        assert len(bucket) == 1 or bucket_bytes(bucket) <= max_bytes
        for (spec, offset), (_, next_offset) in itertools.pairwise(bucket):
            assert offset % 16 == 0
            assert offset + spec.nbytes <= next_offset


DTYPES = [torch.float32, torch.bfloat16, torch.int8]


@settings(deadline=None)  # the first use of some kernels is slow
@given(SHAPES, st.integers(1, 400), st.data())
def test_what_is_unpacked_is_what_was_packed(
    shapes: list[tuple[int, ...]], max_bytes: int, data: st.DataObject
) -> None:
    dtypes = [data.draw(st.sampled_from(DTYPES)) for _ in shapes]
    weights = {
        str(i): torch.arange(math.prod(s)).reshape(s).to(d) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
    }
    sums: dict[str, torch.Tensor] = {}
    source, found = iter(weights.items()), {}
    for bucket in make_buckets(make_specs(weights), max_bytes):
        found.update(unpack(bucket, pack(bucket, source, sums, CPU)))
    assert found.keys() == sums.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)
        assert sums[name] == checksum(weight)


class RecordingCommunicator:
    """Records when a broadcast starts and is waited for."""

    device = CPU

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def start(self, tensor: torch.Tensor, deadline: Deadline) -> int:
        self.events.append("start")
        return 0

    def wait(self, future: int, deadline: Deadline, check: Any = None) -> None:
        self.events.append("wait")


def test_a_bucket_is_packed_and_one_is_loaded_while_one_is_on_its_way() -> None:
    weights = {name: torch.ones(4) for name in "abc"}
    events: list[str] = []
    communicator: Any = RecordingCommunicator(events)

    def source() -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in weights.items():
            events.append(name)
            yield name, weight

    send_weights(communicator, source(), make_specs(weights), Deadline(60), max_bytes=16)
    assert events == ["a", "start", "b", "wait", "start", "c", "wait", "start", "wait"]
    events.clear()
    for [(name, _)] in receive_weights(communicator, make_specs(weights), Deadline(60), max_bytes=16):
        events.append(name)
    assert events == ["start", "wait", "start", "a", "wait", "start", "b", "wait", "c"]


@pytest.mark.parametrize("max_bytes", [2**30, 16])
def test_received_weights_equal_sent_weights(max_bytes: int) -> None:
    """Over a real process group of two, the engine's end in a thread; in one bucket, and one for each."""
    torch.manual_seed(0)
    weights = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.randn(())}
    specs = make_specs(weights)
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=120))
    received: dict[str, torch.Tensor] = {}

    def engine() -> None:
        client = dist.TCPStore("127.0.0.1", store.port, 2, is_master=False, timeout=timedelta(seconds=120))
        for bucket in receive_weights(Communicator(client, 1, 2, CPU, 120), specs, Deadline(120), max_bytes):
            received.update((name, weight.clone()) for name, weight in bucket)

    thread = threading.Thread(target=engine)
    thread.start()
    sender = Communicator(store, 0, 2, CPU, 120)
    sums = send_weights(sender, weights.items(), specs, Deadline(120), max_bytes=max_bytes)
    thread.join(120)
    assert sums == {name: checksum(weight).item() for name, weight in received.items()}
    assert received.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(received[name], weight, rtol=0, atol=0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.second = nn.Linear(5, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)))


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_merged_as_peft_merges_them(dora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(Net(), LoraConfig(r=2, lora_alpha=6, target_modules=["first", "second"], use_dora=dora))
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, mean=1.0 if "magnitude" in name else 0.0)
    weights = PolicyWeights(adapted, torch.float32)
    base = {name: weight.clone() for name, weight in weights.gather(weights.base)}
    adapters = dict(weights.gather(weights.synced))
    assert set(base) == {"first.weight", "first.bias", "second.weight"}
    assert all(".lora_" in name for name in adapters)
    merged = dict(merge_adapters(base, adapters, weights.scaling))
    expected = adapted.merge_and_unload().state_dict()
    for name in base:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-5, atol=1e-6)


def test_without_adapters_every_weight_is_synced() -> None:
    net = Net()
    weights = PolicyWeights(net, torch.float32)
    assert [spec.name for spec in weights.specs(weights.synced)] == [name for name, _ in net.named_parameters()]
    assert not weights.base
    assert not weights.scaling
