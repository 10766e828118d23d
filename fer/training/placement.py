"""Whether the processes of a job fit on the nodes of a cluster, each on one of them.

The sum of a cluster's CPUs and GPUs says too little: a worker with a GPU and 60 CPUs fits on no node of 8 GPUs and 48
CPUs, and a job that asks for one would wait forever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fer.errors import UserError


class Bundle(NamedTuple):
    """Equal processes of a job, such as its training workers."""

    what: str
    """For messages: "training worker"."""
    number: int
    resources: Mapping[str, float]
    """Of each: CPU, GPU and custom resources."""
    options: str
    """The options that would make them smaller or fewer, for messages."""
    labels: Mapping[str, str] = {}
    """Of the nodes that they may run on."""


def check_placement(
    bundles: Sequence[Bundle],
    nodes: Mapping[str, Mapping[str, float]],
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Raise UserError that names what does not fit, and what the nodes (address: resources) offer.

    ``labels`` are those of the nodes, by address. Places the largest processes first, each on the node that has the
    least left over, as Ray's packing does: that node stays the first choice until it is full.
    """
    labels = labels or {}
    free = {address: dict(resources) for address, resources in nodes.items()}
    for bundle in sorted(bundles, key=_size, reverse=True):
        wanted = bundle.labels.items()
        allowed = [node for address, node in free.items() if wanted <= labels.get(address, {}).items()]
        placed = 0
        for node in sorted(allowed, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0))):
            while placed < bundle.number and _fits(bundle.resources, node):
                placed += 1
                for name, amount in bundle.resources.items():
                    node[name] = node.get(name, 0) - amount
        if placed < bundle.number:
            offers = "; ".join(f"{address}: {describe(offer)}" for address, offer in nodes.items())
            where = "".join(f", labelled {name}={value}" for name, value in wanted)
            raise UserError(
                f"{placed} of {bundle.number} {bundle.what}s, of {describe(bundle.resources)} each{where}, fit on "
                f"nodes ({offers}); lower {bundle.options}, or add nodes"
            )


def _size(bundle: Bundle) -> tuple[float, float]:
    return bundle.resources.get("GPU", 0), bundle.resources.get("CPU", 0)


def _fits(wanted: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(free.get(name, 0) >= amount - 1e-6 for name, amount in wanted.items())


def describe(resources: Mapping[str, float]) -> str:
    """Such as "8 GPUs, 96 CPUs": without memory and what Ray adds itself."""
    named = [(resources.get("GPU", 0), "GPU"), (resources.get("CPU", 0), "CPU")]
    words = [f"{amount:g} {name}{'' if amount == 1 else 's'}" for amount, name in named if amount]
    own = [
        name for name in resources if name not in ("GPU", "CPU", "memory", "object_store_memory") and ":" not in name
    ]
    return ", ".join([*words, *(f"{resources[name]:g} {name}" for name in own)]) or "nothing"
