"""How many CPUs this process may use (`os.cpu_count` ignores a container's limit), and whether they compute in bf16."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_count(root: Path = Path("/")) -> int:
    """CPUs of the machine, within this process's affinity and the quotas of its control groups; at least 1.

    A quota of one and a half CPUs counts as two. ``root`` is where /proc and /sys are.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _quotas(root))]))


def has_fast_bf16() -> bool:
    """Whether PyTorch has fast kernels for bfloat16 on this CPU.

    Without them (x86 without AVX-512), a product of matrices takes about seven times as long as in float32.
    """
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each control group of this process, and those around it, may use (cgroups v1 and v2)."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers  # v2 has one hierarchy and names no controllers
        path = PurePosixPath(group.lstrip("/"))
        for folder in (mount / path, *(mount / parent for parent in path.parents)):
            if controllers:
                limit, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            else:
                limit, _, period = _read(folder / "cpu.max").partition(" ")
            if limit not in ("", "max", "-1"):
                yield int(limit) / int(period)


def _read(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""
