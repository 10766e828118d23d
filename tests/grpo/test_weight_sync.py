"""Weights on their way: buckets that both sides cut alike, and adapters merged as PEFT merges them."""

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

from fer.grpo.weight_sync import Meta, Policy, cut, merge, open_group, receive, send, size_of

SHAPES = st.lists(st.lists(st.integers(1, 6), max_size=3).map(tuple), min_size=1, max_size=12)


@given(SHAPES, st.integers(1, 400))
def test_buckets_hold_everything_once_and_nothing_overlaps(shapes: list[tuple[int, ...]], limit: int) -> None:
    metas = [Meta(str(i), "float32", shape) for i, shape in enumerate(shapes)]
    buckets = list(cut(metas, limit))
    assert [meta for bucket in buckets for meta, _ in bucket] == metas
    for bucket in buckets:
        assert len(bucket) == 1 or size_of(bucket) <= limit
        for (one, start), (_, following) in itertools.pairwise(bucket):
            assert start % 16 == 0
            assert start + one.bytes <= following


def test_what_is_sent_is_what_is_received() -> None:
    """Over a real process group of two, one on a thread of its own."""
    torch.manual_seed(0)
    weights = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.randn(())}
    metas = [Meta(name, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for name, w in weights.items()]
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    got: dict[str, torch.Tensor] = {}

    def engine() -> None:
        client = dist.TCPStore("127.0.0.1", store.port, 2, is_master=False, timeout=timedelta(seconds=30))
        group = open_group(client, 1, 2, torch.device("cpu"))
        for bucket in receive(group, metas, torch.device("cpu")):
            got.update((name, weight.clone()) for name, weight in bucket)

    thread = threading.Thread(target=engine)
    thread.start()
    send(open_group(store, 0, 2, torch.device("cpu")), weights.items(), metas, torch.device("cpu"))
    thread.join(30)
    assert got.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(got[name], weight, rtol=0, atol=0)


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
    policy = Policy(adapted, torch.float32)
    whole = {name: weight.clone() for name, weight in policy.read(policy.whole)}
    news = dict(policy.read(policy.news))
    assert set(whole) == {"first.weight", "first.bias", "second.weight"}
    assert all(".lora_" in name for name in news)
    merged = dict(merge(whole, news, policy.scaling))
    expected = adapted.merge_and_unload().state_dict()
    for name in whole:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-5, atol=1e-6)


def test_without_adapters_every_weight_is_news() -> None:
    net = Net()
    policy = Policy(net, torch.float32)
    assert [meta.name for meta in policy.metas(policy.news)] == [name for name, _ in net.named_parameters()]
    assert not policy.scaling
