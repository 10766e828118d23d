"""The parts by name, and the process that runs one of them.

A part is a function of the `Machine`, a scratch folder and a dictionary, into which it writes each figure as soon as it
has it: what a part has measured before it fails is reported too.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Where a part's function is, and what it does."""

    function: str
    what: str


PARTS = {
    "environment": Part("environment:run", "versions, GPUs, NCCL, flash-attn"),
    "classifier": Part("classifier:run", "feed and training of a classifier: bf16, torch.compile"),
    "sft-3b": Part("sft:run_3b", "SFT steps of a 3B-shaped Qwen2.5-VL"),
    "sft-7b": Part("sft:run_7b", "SFT steps of a 7B-shaped Qwen2.5-VL"),
    "engine": Part("engine:run", "a rollout engine of vLLM, image encoder included; weight sync with checksums"),
    "tensor-parallel": Part("engine:run_split", "a rollout engine over two GPUs; weight sync with checksums"),
    "recovery": Part("recovery:run", "the engine is killed while it samples, and in the middle of a weight transfer"),
    "grpo": Part("grpo:run", "20 steps of GRPO"),
    "ferbench": Part("ferbench:run", "FERBench in vLLM's own process"),
    "serve": Part("serve:run", "a replica of `fer serve`"),
}


class Figures(dict[str, Any]):
    """The figures of a part; each is in the file as soon as it is set."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.file.write_text(json.dumps(self))


def main(name: str, scratch: str, figures: str) -> None:
    from benchmarks.gpu.machine import find_machine

    module, function = PARTS[name].function.split(":")
    getattr(import_module(f"benchmarks.gpu.{module}"), function)(find_machine(), Path(scratch), Figures(Path(figures)))


if __name__ == "__main__":
    main(*sys.argv[1:])
