"""`fer ferbench run` with a vision-language model: on a GPU, vLLM's engine is in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import make_model, make_questions
from benchmarks.gpu.parts import Figures
from benchmarks.gpu.rollouts import shape_for


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    from jobs.__main__ import run_job

    model = make_model(shape_for(machine), machine, scratch)
    questions = make_questions("ferbench", machine, scratch, rows=1024 if machine.gpus else 16)
    out = scratch / "answers"
    arguments = ["run", str(model), "--name", "model", "--questions", str(questions), "--out", str(out)]
    arguments += ["--image-root", str(scratch / "faces"), "--max-new-tokens", "128" if machine.gpus else "8"]
    assert run_job("ferbench", [*arguments, "--device", machine.device, "--storage", str(scratch)]) == 0
    usage = json.loads((out / "model" / "run.json").read_text())["usage"]
    rows = json.loads((out / "model" / f"{questions.stem}.json").read_text())
    figures["answers"] = usage["responses"]
    figures["with errors"] = sum("error" in row for row in rows)
    figures["answers/s"] = usage["responses"] / usage["engine_seconds"]
    figures["tokens/s"] = usage["completion_tokens"] / usage["engine_seconds"]
