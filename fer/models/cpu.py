"""Which precisions the CPU computes fast."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

INSTRUCTIONS = {
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
}
"""Flags in /proc/cpuinfo, on x86 and ARM; one of them is enough."""


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets, by Linux's names; empty on another system."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return frozenset(found[1].split()) if found else frozenset()


def lacks_instructions(precision: str) -> bool:
    """Whether the CPU is known to have no instructions for ``precision``, so that it is slow."""
    needed = INSTRUCTIONS.get(precision)
    return bool(needed and cpu_flags() and not needed & cpu_flags())
