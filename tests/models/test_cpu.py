"""What the CPU says about its instructions."""

from __future__ import annotations

import platform

import pytest

from fer.models import cpu


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ({"avx2", "avx_vnni"}, ["bf16"]),
        ({"avx512f", "avx512_vnni", "avx512_bf16"}, []),
        ({"avx2"}, ["int8", "bf16"]),
        (set(), []),
    ],
)
def test_a_precision_without_instructions_is_slow(
    flags: set[str], slow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags))
    precisions = ("fp32", "fp16", "int8", "bf16")
    assert [precision for precision in precisions if cpu.lacks_instructions(precision)] == slow


@pytest.mark.skipif(platform.system() != "Linux", reason="Linux lists the instructions")
def test_this_cpu_has_instructions() -> None:
    assert len(cpu.cpu_flags()) > 10
