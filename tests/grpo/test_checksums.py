"""Checksums of weights: a sync that was skipped or loaded in part is found, at the magnitudes of a 7B model in bf16."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from fer.grpo.checksums import WeightLoader, checksum, compare_ranks, to_ints, transfer_problems
from fer.grpo.reload_warnings import LOAD_LOGGER, show_warnings, without_expected_warnings

WIDTH = 256


class FusedModel(nn.Module):
    """Loads weights as models of vLLM do: query, key and value are one parameter, and the vocabulary is padded."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, dtype=dtype)
        self.embedding = nn.Embedding(128, WIDTH, dtype=dtype)
        self.packed = nn.Parameter(torch.empty(0))
        """What vLLM leaves of a weight that it packs for CPUs."""
        self.skipped: set[str] = set()
        """Weights that are loaded into nothing, though the model says that they are."""

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = set()
        for name, weight in weights:
            part, _, kind = name.rpartition(".")
            if part in ("q", "k", "v"):
                target, rows = f"qkv.{kind}", slice("qkv".index(part) * WIDTH, ("qkv".index(part) + 1) * WIDTH)
            elif name == "embedding.weight":
                target, rows = name, slice(0, len(weight))
            else:
                loaded |= {"packed"} if name == "packed" else set()
                continue
            loaded.add(target)
            if name not in self.skipped:
                self.get_parameter(target)[rows] = weight
        return loaded


def make_weights(dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Of a fine-tuned model's magnitude."""
    weights = {f"{part}.{kind}": torch.randn(WIDTH, WIDTH) for part in "qkv" for kind in ("weight",)}
    weights |= {f"{part}.bias": torch.randn(WIDTH) for part in "qkv"}
    weights |= {"embedding.weight": torch.randn(100, WIDTH), "packed": torch.randn(7)}
    return {name: (0.02 * weight).to(dtype) for name, weight in weights.items()}


def make_loader(dtype: torch.dtype = torch.bfloat16) -> tuple[WeightLoader, FusedModel]:
    model = FusedModel(dtype)
    nn.init.zeros_(model.embedding.weight)
    return WeightLoader(model), model


def sums(weights: dict[str, Tensor]) -> dict[str, int]:
    return to_ints({name: checksum(weight) for name, weight in weights.items()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fused_and_padded_parameters_hold_what_was_loaded(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    loader, _ = make_loader(dtype)
    for _ in range(2):  # one weight at a time, then all at once
        weights = make_weights(dtype)
        loader.start()
        loader.load(weights.items())
        received = {name: checksum(weight) for name, weight in weights.items()}
        report = compare_ranks([loader.report(received, whole=True)])
        assert report.problems == []
        assert transfer_problems(sums(weights), report.received) == []
        assert (report.compared, report.not_compared) == (3, 1), (
            "qkv's weight and bias, the embedding; not the packed one"
        )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("steps", [1, 10])
def test_a_skipped_sync_is_found_at_a_learning_rate_of_1e_6_in_bf16(seed: int, steps: int) -> None:
    """Adam moves each fp32 master weight by about the learning rate; most bf16 weights stay the same."""
    torch.manual_seed(seed)
    master = {name: weight.float() for name, weight in make_weights().items()}
    before = {name: weight.bfloat16() for name, weight in master.items()}
    for weight in master.values():
        weight += steps * 1e-6 * torch.randn_like(weight).sign()
    after = {name: weight.bfloat16() for name, weight in master.items()}
    changed = torch.cat([(before[name] != after[name]).flatten() for name in before]).float().mean()
    assert 0 < changed < 0.1 * steps

    loader, model = make_loader()
    loader.load(before.items())
    assert compare_ranks([loader.report({}, whole=True)]).problems == []
    # The engine receives the new weights, and vLLM keeps the old ones.
    model.skipped = {name for name in after if name.endswith("weight")}
    loader.start()
    loader.load(after.items())
    [problem] = compare_ranks([loader.report({}, whole=True)]).problems
    assert problem.startswith(
        "2 of 4 weights of the engine differ from what was loaded into them (qkv.weight, embedding"
    )
    # The engine receives the old weights again.
    [problem] = transfer_problems(sums(after), sums(before))
    assert "arrived with other values" in problem


def test_weights_that_are_missing_or_unused_are_named() -> None:
    loader, _ = make_loader()
    weights = make_weights()
    del weights["embedding.weight"]
    loader.load([*weights.items(), ("nowhere.weight", torch.ones(2))])
    assert compare_ranks([loader.report({}, whole=True)]).problems == [
        "1 of 4 weights of the engine were not in the update (embedding.weight)",
        "1 of 8 weights were not used by the engine (nowhere.weight)",
    ]
    assert len(compare_ranks([loader.report({}, whole=False)]).problems) == 1, (
        "adapters belong to some of the parameters only"
    )
    assert transfer_problems({"a": 1, "b": 2, "c": 3, "d": 4}, {}) == ["4 of 4 weights did not arrive (a, b, c, ...)"]


@pytest.mark.parametrize(
    ("layer", "whole", "shown"), [("Linear", True, True), ("Linear", False, False), ("Dropout", True, False)]
)
def test_a_layer_that_got_no_weights_is_warned_about(
    layer: str, whole: bool, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM's warning is shown of layers with parameters, if all weights were sent."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with without_expected_warnings(model, whole):
        logging.getLogger(LOAD_LOGGER).warning("%s: Failed to load weights", layer)
    assert bool(caplog.records) == shown
    with without_expected_warnings(model, whole):
        logging.getLogger(LOAD_LOGGER).warning("something else")
    assert caplog.messages[-1] == "something else"


@pytest.mark.parametrize(("level", "after"), [(logging.ERROR, logging.WARNING), (logging.INFO, logging.INFO)])
def test_warnings_are_shown_after_an_engine_s_start(level: int, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, handler = logging.Logger("vllm", level), logging.StreamHandler()
    handler.setLevel(level)
    logger.addHandler(handler)
    monkeypatch.setitem(logging.Logger.manager.loggerDict, "vllm", logger)
    show_warnings()
    assert (logger.level, handler.level) == (after, after)


RANKS, HEADS, HEAD = 4, 8, 16
"""Of a model that is split: ranks, query heads, width of a head. It has two heads of keys, each on two ranks."""


class SplitModel(nn.Module):
    """What one of four ranks holds of a layer, loaded as vLLM's models do with tensor parallelism."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.qkv = nn.Parameter(torch.zeros((HEADS // RANKS + 2) * HEAD, WIDTH, dtype=torch.bfloat16))
        self.output = nn.Parameter(torch.zeros(WIDTH, WIDTH // RANKS, dtype=torch.bfloat16))
        self.norm = nn.Parameter(torch.zeros(WIDTH, dtype=torch.bfloat16))
        self.embedding = nn.Parameter(torch.zeros(128 // RANKS, WIDTH, dtype=torch.bfloat16))

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        queries = HEADS // RANKS * HEAD
        for name, weight in weights:
            if name == "q":
                self.qkv[:queries] = weight.chunk(RANKS)[self.rank]
            elif name in "kv":
                start = queries + "kv".index(name) * HEAD
                self.qkv[start : start + HEAD] = weight.chunk(2)[self.rank // 2]
            elif name == "output":
                self.output[:] = weight.chunk(RANKS, dim=1)[self.rank]
            elif name == "embedding":
                rows = weight[self.rank * 32 : (self.rank + 1) * 32]
                self.embedding[: len(rows)] = rows
            else:
                self.norm[:] = weight
        return {"qkv" if name in "qkv" else name for name, _ in weights}


def test_ranks_together_hold_what_was_loaded() -> None:
    torch.manual_seed(0)
    loaders = [WeightLoader(SplitModel(rank)) for rank in range(RANKS)]
    shapes = {"q": (HEADS * HEAD, WIDTH), "k": (2 * HEAD, WIDTH), "v": (2 * HEAD, WIDTH), "output": (WIDTH, WIDTH)}
    shapes |= {"norm": (WIDTH,), "embedding": (100, WIDTH)}

    def update(*, skip: dict[int, str]) -> list[str]:
        """Problems of an update in which the ranks miss these weights."""
        weights = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
        reports = []
        for rank, loader in enumerate(loaders):
            loader.start()
            before = {name: parameter.clone() for name, parameter in loader.model.named_parameters()}
            loader.load(list(weights.items()))
            if rank in skip:
                loader.model.get_parameter(skip[rank]).data.copy_(before[skip[rank]])
            reports.append(loader.report({name: checksum(weight) for name, weight in weights.items()}, whole=True))
        report = compare_ranks(reports)
        assert (report.compared, report.not_compared) == (4, 0)
        return report.problems

    assert update(skip={}) == []
    assert update(skip={0: "qkv", 2: "norm", 3: "output"}) == [
        "3 of 4 weights of the engine differ from what was loaded into them (qkv, output, norm)"
    ]
    assert update(skip={1: "embedding"}) == [
        "1 of 4 weights of the engine differ from what was loaded into them (embedding)"
    ]
    assert update(skip={}) == []


def test_a_rank_that_received_other_weights_is_named() -> None:
    loader, _ = make_loader()
    weights = make_weights()
    loader.load(weights.items())
    received = {name: checksum(weight) for name, weight in weights.items()}
    reports = [loader.report(received, True), loader.report(received | {"q.bias": torch.tensor(1)}, True)]
    [problem] = compare_ranks(reports).problems
    assert problem == "1 of 8 weights did not arrive on rank 1 as on rank 0 (q.bias)"
