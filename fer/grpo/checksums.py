"""Checksums of weights: they show that a weight sync arrived.

Log-probabilities can't show it in bf16. At a learning rate of 1e-6, ten steps move a weight by 1e-5, while bf16 values
near 0.02 are 1e-4 apart: a missed sync changes one weight in ten, by its last bit, and hides in the noise of two
implementations. A checksum is the sum of the elements' bits as integers, so it is exact: it changes with any bit, but
for changes that cancel exactly. And it does not depend on the order: the checksum of a weight that vLLM fused from
several (query, key and value; gate and up) is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MAX_NAMES = 3
"""Names that a problem lists."""


def checksum(tensor: Tensor) -> Tensor:
    """The checksum (int64 scalar), on the tensor's device, without waiting for it."""
    return tensor.detach().view(_INTEGERS[tensor.dtype.itemsize]).sum(dtype=torch.int64)


def to_ints(checksums: Mapping[str, Tensor]) -> dict[str, int]:
    """The values of checksums; one copy from their device for all."""
    return dict(zip(checksums, torch.stack(list(checksums.values())).tolist(), strict=True)) if checksums else {}


@dataclass
class RankReport:
    """What one rank of an engine received and holds after a weight update. Weights are (elements, checksum)."""

    received: dict[str, int]
    """Checksum of each weight that arrived."""
    loaded: dict[str, list[tuple[int, int]]]
    """The weights that were loaded into each parameter: several if vLLM fuses them, and whole, whatever it keeps."""
    held: dict[str, tuple[int, int]]
    """Each of these parameters, after vLLM has fused and split them."""
    problems: list[str]


@dataclass
class SyncReport:
    """What an engine received and holds after a weight update."""

    received: dict[str, int] = field(default_factory=dict)
    """Checksum of each weight that arrived."""
    compared: int = 0
    """Parameters of the engine that were compared with what was loaded into them."""
    not_compared: int = 0
    """Parameters that have another form than what was loaded: packed by vLLM for CPUs, or quantised."""
    problems: list[str] = field(default_factory=list)


def transfer_problems(sent: Mapping[str, int], received: Mapping[str, int]) -> list[str]:
    """How the received weights differ from the sent ones, as sentences; none if they don't."""
    missing = [name for name in sent if name not in received]
    changed = [name for name in sent if name in received and received[name] != sent[name]]
    return _problem(missing, len(sent), "did not arrive") + _problem(changed, len(sent), "arrived with other values")


def _problem(names: Sequence[str], total: int, what: str) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    return [f"{len(names)} of {total} weights {what} ({shown})"]


class WeightLoader:
    """Loads weights into a model of vLLM, and checks afterwards that its parameters hold them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.targets: dict[str, set[str]] = {}
        """The parameters that each weight is loaded into, as the model said when it was loaded first."""
        self.start()

    def start(self) -> None:
        """Begin an update."""
        self._loaded: dict[str, list[tuple[int, Tensor]]] = {}
        """Number of elements and checksum of each weight that was loaded into a parameter."""
        self._unused: list[str] = []

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load (name, weight) pairs."""
        weights = list(weights)
        known = all(name in self.targets for name, _ in weights)
        if known:
            self.model.load_weights(weights)
        for name, weight in weights:
            if not known:  # one by one: so it says which parameter each of them belongs to
                self.targets[name] = set(self.model.load_weights([(name, weight)]))
            self._unused += [] if self.targets[name] else [name]
            for parameter in self.targets[name]:
                self._loaded.setdefault(parameter, []).append((weight.numel(), checksum(weight)))

    def report(self, received: Mapping[str, Tensor], whole: bool) -> RankReport:
        """What the model holds, after vLLM has fused its weights. ``whole``: the update had all of the model."""
        parameters = dict(self.model.named_parameters())
        missing = [name for name in parameters if name not in self._loaded] if whole else []
        held = {name: parameters[name] for name in self._loaded if name in parameters}
        sums = to_ints({name: checksum(parameter) for name, parameter in held.items()})
        checksums = [each for parts in self._loaded.values() for _, each in parts]
        values = iter(torch.stack(checksums).tolist() if checksums else [])
        return RankReport(
            to_ints(received),
            {name: [(numel, next(values)) for numel, _ in parts] for name, parts in self._loaded.items()},
            {name: (parameter.numel(), sums[name]) for name, parameter in held.items()},
            _problem(missing, len(parameters), "of the engine were not in the update")
            + _problem(self._unused, len(self.targets), "were not used by the engine"),
        )


def compare_ranks(reports: Sequence[RankReport]) -> SyncReport:
    """What an engine holds on all its ranks, compared with what was loaded.

    With tensor parallelism a rank holds a part of most weights, and all of some. Elements and checksums are sums over
    the ranks.
    """
    first = reports[0]
    changed, compared = [], 0
    for name, parts in first.loaded.items():
        held = [report.held[name] for report in reports if name in report.held]
        expected = _possible_sums(parts, sum(numel for numel, _ in held))
        compared += bool(expected)
        if expected and sum(total for _, total in held) % 2**64 not in expected:
            changed.append(name)
    problems = _problem(changed, len(first.loaded), "of the engine differ from what was loaded into them")
    for rank, report in enumerate(reports[1:], 1):
        others = [name for name in first.received if report.received.get(name) != first.received[name]]
        problems += _problem(others, len(first.received), f"did not arrive on rank {rank} as on rank 0")
    problems += dict.fromkeys(problem for report in reports for problem in report.problems)
    return SyncReport(first.received, compared, len(first.loaded) - compared, problems)


def _possible_sums(parts: Sequence[tuple[int, int]], held: int) -> set[int]:
    """The checksums (modulo 2^64) that a parameter can have into which ``parts`` were loaded, if it has ``held``
    elements; none if it has another form.

    With fewer elements than were loaded, it has. Otherwise it is whole, split among the ranks, or there are copies of
    it; what is left is padding, which is zero. Of query, key and value, only the last two have copies if there are more
    ranks than heads of them.
    """
    numel, total = sum(part[0] for part in parts), sum(part[1] for part in parts)
    if held < numel:
        return set()
    sums = {held // numel * total}
    largest, its_sum = max(parts)
    if numel > largest and (held - largest) % (numel - largest) == 0:
        sums.add(its_sum + (held - largest) // (numel - largest) * (total - its_sum))
    return {each % 2**64 for each in sums}
