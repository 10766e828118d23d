"""A torch profile of some training steps (``--profile``), for chrome://tracing or https://ui.perfetto.dev."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from fer.tracking import Run

SKIPPED, WARMUP, STEPS = 1, 1, 3
"""The first step compiles and allocates; during the second the profiler itself starts."""
ARTIFACTS = "profile"


class StepProfiler:
    """Records the third to fifth step of this process, and logs the trace as an artifact of the run."""

    def __init__(self, enabled: bool, tracking: Run) -> None:
        self.tracking = tracking
        self.profiler: Any = None
        if enabled:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.profiler = profile(
                activities=[ProfilerActivity.CPU, *cuda],
                schedule=schedule(wait=SKIPPED, warmup=WARMUP, active=STEPS, repeat=1),
                on_trace_ready=self._log,
            )
            self.profiler.start()

    def step(self) -> None:
        """A training step has ended."""
        if self.profiler is not None:
            self.profiler.step()

    def close(self) -> None:
        """Training has ended; log what was recorded of a run that is shorter."""
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    def _log(self, finished: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            finished.export_chrome_trace(str(Path(folder) / "trace.json.gz"))
            self.tracking.log_artifacts(Path(folder), ARTIFACTS)
        print(f"profile of {STEPS} steps: trace.json.gz in the run's artifacts, under {ARTIFACTS}/", flush=True)
