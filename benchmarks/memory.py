"""Memory of training on N rows and on ten times as many: the data set must not be held in memory.

    python -m benchmarks.memory

Memory is the proportional set size (shared pages counted once) of the driver and of all processes of its Ray, including
the object store, sampled twice a second during training.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

import psutil
from pydantic import Field

from fer.options import Options, parse


class MemoryBenchmark(Options):
    """Compare the memory of training on N rows with that on ten times as many."""

    rows: int = Field(10_000, ge=500, description="Rows of the smaller data set, of about 20 kB each")
    backbone: str = Field("test_resnet", description="timm model")


def main(config: MemoryBenchmark) -> None:
    from benchmarks.setup import rendered_faces, repeat_training_split, train_with_ferry

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        rendered_faces(root, 1000, size=224)
        peaks = {}
        for times in (config.rows // 1000, config.rows // 100):
            shards = repeat_training_split(root / "shards", times, root / f"times-{times}")
            size = sum(file.stat().st_size for file in shards.rglob("*.parquet"))
            with PeakMemory() as memory:
                train_with_ferry(
                    shards,
                    root / "runs",
                    f"times-{times}",
                    backbone=config.backbone,
                    img_size=32,
                    epochs=1,
                    batch_size=64,
                )
            peaks[times] = memory.peak
            peak = f"peak {memory.peak / 2**20:.0f} MiB"
            print(f"{times * 1000:>8} rows, {size / 2**20:7.0f} MiB on disk: {peak}", flush=True)
        small, large = peaks.values()
        print(f"memory with ten times the rows: {large / small - 1:+.1%}")


class PeakMemory:
    """Peak memory during the block, in bytes.

    ``peak`` is the proportional set size of this process and its descendants together. ``driver_peak`` is this one's
    own memory alone: without the libraries, whose proportional part depends on what else runs on the machine.
    """

    def __enter__(self) -> PeakMemory:
        self.peak, self.driver_peak, self._stop = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        driver = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in (driver, *driver.children(recursive=True)):
                try:
                    size = process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue  # it ended after it was listed
                total += size
            self.peak = max(self.peak, total)
            self.driver_peak = max(self.driver_peak, own_memory())


def own_memory() -> int:
    """Bytes that this process has allocated, and its part of shared memory."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines())
    return 1024 * sum(int(words[1]) for words in lines if words[0] in ("Pss_Anon:", "Pss_Shmem:"))


if __name__ == "__main__":
    main(parse(MemoryBenchmark, sys.argv[1:], "benchmark"))
