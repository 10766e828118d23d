"""CPUs are counted within a container's limits, of which the test writes the files; some are slow in bf16."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

import fer.inference.vllm
from fer.cpus import cpu_count, has_fast_bf16
from fer.inference.vllm import cpu_dtype


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_without_control_groups_it_is_the_affinity(tmp_path: Path) -> None:
    assert cpu_count(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)]
)
def test_a_container_with_cgroups_v2(quota: str, cpus: int, tmp_path: Path) -> None:
    assert cpu_count(write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota})) == cpus


def test_the_smallest_quota_of_nested_groups_counts(tmp_path: Path) -> None:
    groups = {
        "proc/self/cgroup": "0::/jobs/one/step",
        "sys/fs/cgroup/jobs/cpu.max": "600000 100000",
        "sys/fs/cgroup/jobs/one/cpu.max": "300000 100000",
        "sys/fs/cgroup/jobs/one/step/cpu.max": "max 100000",
    }
    assert cpu_count(write(tmp_path, groups)) == 3


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("400000", 4)])
def test_a_container_with_cgroups_v1(quota: str, cpus: int, tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct"
    groups = {
        "proc/self/cgroup": "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc",
        f"{folder}/cpu.cfs_quota_us": quota,  # a container sees its own group as the root
        f"{folder}/cpu.cfs_period_us": "100000",
    }
    assert cpu_count(write(tmp_path, groups)) == cpus


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="Linux on x86 only")
def test_bf16_is_fast_on_cpus_with_avx512() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_fast_bf16() == ({"avx512bw", "avx512dq", "avx512vl"} <= flags)


@pytest.mark.parametrize(("fast", "dtype"), [(True, "auto"), (False, "float32")])
def test_vllm_computes_in_float32_where_bf16_is_slow(monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: str) -> None:
    monkeypatch.setattr(fer.inference.vllm, "has_fast_bf16", lambda: fast)
    assert cpu_dtype() == dtype
