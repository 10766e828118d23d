"""Training state that another number of workers saved: each worker assembles its share from the files of all of them.

DeepSpeed divides the fp32 weights and Adam's moments among the workers: ZeRO-2 a vector of all trained weights, ZeRO-3
each weight. The files are mapped into memory, and one weight at a time is assembled, so no worker holds the whole.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fer.vlm.deepspeed import weights_only_loading

MOMENTS = ("exp_avg", "exp_avg_sq")


class Part(NamedTuple):
    """A part of a weight: where it is in the vectors of a worker's shard."""

    name: str
    group: int
    start: int
    numel: int
    offset: int
    """Of the part's first element in the flattened weight."""


class Shard:
    """One worker's share of the optimizer state, as DeepSpeed saves and loads it: vectors of parts of weights."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.has_parts_of_vectors = "param_slice_mappings" in state
        """Whether it is from ZeRO-2, which divides vectors of many weights."""
        masters, optimizer = ("single_partition_of_fp32_groups", "base_optimizer_state")
        if not self.has_parts_of_vectors:
            masters, optimizer = ("fp32_flat_groups", "optimizer_state_dict")
        self.masters: list[Tensor] = state[masters]
        self.adam: dict[int, dict[str, Any]] = state[optimizer]["state"]

    def vector(self, group: int, key: str | None) -> Tensor:
        """The fp32 weights of a group, or one of their moments."""
        return self.masters[group] if key is None else self.adam[group][key]

    def add_moments(self, step: Any) -> None:
        """Moments that are zero, after as many steps as ``step`` says."""
        for group, master in enumerate(self.masters):
            padding = self.state["group_paddings"][group] if self.has_parts_of_vectors else 0
            zeros = {key: master.new_zeros(master.numel() + padding) for key in MOMENTS}
            self.adam[group] = {"step": copy.deepcopy(step), **zeros}


def parts_of_vectors(mappings: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Part]]:
    """The parts that each worker has with ZeRO-2.

    ``mappings``: DeepSpeed's names and addresses, of each worker and group.
    """
    offsets: dict[str, int] = defaultdict(int)
    parts: list[list[Part]] = []
    for groups in mappings:
        parts.append([])
        for group, mapping in enumerate(groups):
            for name, address in mapping.items():
                parts[-1].append(Part(name, group, address.start, address.numel, offsets[name]))
                offsets[name] += address.numel
    return parts


def parts_of_weights(groups: Sequence[Sequence[tuple[str, int]]], workers: int) -> list[list[Part]]:
    """The parts that each worker has with ZeRO-3; ``groups``: names and sizes of the weights, in DeepSpeed's order."""
    parts: list[list[Part]] = [[] for _ in range(workers)]
    for group, weights in enumerate(groups):
        start = 0
        for name, size in weights:
            numel = -(-size // workers)
            for rank in range(workers):
                parts[rank].append(Part(name, group, start, numel, rank * numel))
            start += numel
    return parts


class SavedState:
    """The files of all workers that saved."""

    def __init__(self, folder: Path) -> None:
        with weights_only_loading():
            files = sorted(folder.glob("*_optim_states.pt"), key=_rank)
            shards = [Shard(_map(file)["optimizer_state_dict"]) for file in files]
            model = _map(min(folder.glob("*mp_rank_00_model_states.pt"), key=_rank))
        if shards[0].has_parts_of_vectors:
            parts = parts_of_vectors([shard.state["param_slice_mappings"] for shard in shards])
        else:
            groups = [[(name, shape.numel()) for name, shape in group.items()] for group in model["param_shapes"]]
            parts = parts_of_weights(groups, len(shards))
        self.step = shards[0].adam[0]["step"]
        self.parts: dict[str, list[tuple[Shard, Part]]] = defaultdict(list)
        for shard, shard_parts in zip(shards, parts, strict=True):
            for part in shard_parts:
                self.parts[part.name].append((shard, part))

    def weight(self, name: str, key: str | None) -> Tensor:
        """A weight, or one of its moments, flattened; with ZeRO-3 the end may be padded."""
        return torch.cat(
            [shard.vector(part.group, key)[part.start : part.start + part.numel] for shard, part in self.parts[name]]
        )


def load_other_workers_state(engine: Any, folder: Path) -> None:
    """Restore the trained weights and the optimizer from a checkpoint folder of another number of workers. Collective.

    Weights that are not trained, learning rate and step stay as they are.
    """
    saved, zero = SavedState(folder), engine.optimizer
    rank, workers = dist.get_rank(), dist.get_world_size()
    is_zero3 = engine.zero_optimization_stage() == 3
    if is_zero3:
        zero.checkpoint_event_prologue()
    own = Shard(zero.state_dict())
    if is_zero3:
        groups = [[(engine.param_names[weight], weight.ds_numel) for weight in group] for group in zero.fp16_groups]
        parts = parts_of_weights(groups, workers)[rank]
    else:
        mappings: list[Any] = [None] * workers
        dist.all_gather_object(mappings, own.state["param_slice_mappings"])
        parts = parts_of_vectors(mappings)[rank]
    own.add_moments(saved.step)
    for part in parts:
        for key in (None, *MOMENTS):
            values = saved.weight(part.name, key)[part.offset : part.offset + part.numel]
            own.vector(part.group, key).data[part.start : part.start + len(values)] = values
    zero.load_state_dict([own.state] * workers, load_from_fp32_weights=True)
    if is_zero3:
        zero.checkpoint_event_epilogue()
    else:
        zero.update_lp_params()


def _rank(file: Path) -> int:
    found = re.search(r"pp_rank_(\d+)", file.name)
    return int(found[1]) if found else 0


def _map(file: Path) -> dict[str, Any]:
    return torch.load(file, mmap=True, map_location="cpu", weights_only=True)
