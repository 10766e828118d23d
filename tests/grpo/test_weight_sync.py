"""Weight transfer: both ends lay out buckets alike, and adapters are merged as PEFT merges them."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
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
    receive_weights,
    send_weights,
)

CPU = torch.device("cpu")
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


def test_received_weights_equal_sent_weights() -> None:
    """Over a real process group of two, the engine's end in a thread."""
    torch.manual_seed(0)
    weights = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.randn(())}
    specs = [TensorSpec(name, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for name, w in weights.items()]
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    received: dict[str, torch.Tensor] = {}

    def engine() -> None:
        client = dist.TCPStore("127.0.0.1", store.port, 2, is_master=False, timeout=timedelta(seconds=30))
        for bucket in receive_weights(Communicator(client, 1, 2, CPU, 30), specs, Deadline(30)):
            received.update((name, weight.clone()) for name, weight in bucket)

    thread = threading.Thread(target=engine)
    thread.start()
    sums = send_weights(Communicator(store, 0, 2, CPU, 30), weights.items(), specs, Deadline(30))
    thread.join(30)
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
