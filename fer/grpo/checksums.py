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

    def report(self, received: Mapping[str, Tensor], whole: bool) -> SyncReport:
        """What the model holds, after vLLM has fused its weights. ``whole``: the update had all of the model."""
        parameters = dict(self.model.named_parameters())
        expected: dict[str, Tensor] = {}
        for name, parts in self._loaded.items():
            # More elements than were loaded are padding, which is zero; fewer: it has another form.
            if name in parameters and parameters[name].numel() >= sum(numel for numel, _ in parts):
                expected[name] = torch.stack([each for _, each in parts]).sum()
        held, wanted = to_ints({name: checksum(parameters[name]) for name in expected}), to_ints(expected)
        changed = [name for name in expected if held[name] != wanted[name]]
        missing = [name for name in parameters if name not in self._loaded] if whole else []
        total = len(parameters)
        return SyncReport(
            to_ints(received),
            len(expected),
            len(self._loaded) - len(expected),
            _problem(changed, total, "of the engine differ from what was loaded into them")
            + _problem(missing, total, "of the engine were not in the update")
            + _problem(self._unused, len(self.targets), "were not used by the engine"),
        )
