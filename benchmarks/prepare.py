"""Memory and time of `fer prepare` on N rows and on ten times as many, with one and with two workers.

    python -m benchmarks.prepare

Rows are tiny, and generated: what is measured is the cost of a row, not that of its image. Each run is a process of its
own. Memory is sampled twice a second: what the driver has allocated, and the proportional set size (shared pages
counted once) of all processes together.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from fer.data.filesystem import FileTree
from fer.data.schema import FaceRow
from fer.errors import UserError
from fer.labels import get_space
from fer.options import Options, parse

LIST = "rows.txt"


class PrepareBenchmark(Options):
    """Compare the memory of `fer prepare` on N rows with that on ten times as many."""

    rows: int = Field(100_000, ge=1000, description="Rows of the smaller data set")
    workers: list[int] = Field([1, 2], description="Numbers of Ray workers; 0: this process, without Ray")
    one: str | None = Field(None, description="Prepare this folder with the first number of workers, and print JSON")


class GeneratedRows:
    """As many rows as ``rows.txt`` says, each a grey image of 8x8 pixels."""

    format = "generated"

    def __init__(self, tree: FileTree) -> None:
        if LIST not in tree.files:
            raise UserError(f"{tree.location} has no {LIST}")
        self.tree, self.space = tree, get_space("basic")
        self.count = int(tree.read(LIST))

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return LIST in tree.files

    def rows(self) -> Iterator[FaceRow]:
        labels = self.space.labels
        for number in range(self.count):
            yield FaceRow(f"{number:08d}.png", labels[number % len(labels)], partial(self.image, number))

    def image(self, number: int) -> bytes:
        import numpy as np

        from fer.data.images import encode_png

        return encode_png(np.full((8, 8), number % 251, np.uint8))

    def fingerprint(self) -> str:
        return self.tree.fingerprint()


def main(config: PrepareBenchmark) -> None:
    if config.one:
        print(json.dumps(prepare_once(Path(config.one), config.workers[0])))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for workers in config.workers:
            peaks = []
            for rows in (config.rows, 10 * config.rows):
                folder = Path(scratch) / f"{rows}-{workers}"
                folder.mkdir()
                (folder / LIST).write_text(str(rows))
                command = [sys.executable, "-m", "benchmarks.prepare", "--one", str(folder), "--workers", str(workers)]
                found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
                peaks.append(found["driver"])
                print(
                    f"{workers} workers, {rows:>9,} rows: {found['seconds']:6.1f} s, driver {found['driver']:.0f} MiB, "
                    f"all processes {found['total']:.0f} MiB, {found['shards']} shards, SHA-256 {found['sha256'][:12]}",
                    flush=True,
                )
            print(f"driver with ten times the rows: {peaks[1] / peaks[0] - 1:+.1%}", flush=True)


def prepare_once(folder: Path, workers: int) -> dict[str, float | str]:
    """Prepare the data set in ``folder``; seconds, peaks in MiB, and a hash of all shards."""
    from benchmarks.memory import PeakMemory
    from cluster.local import connect
    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare

    options = PrepareOptions(
        data=str(folder), format="benchmarks.prepare:GeneratedRows", out=str(folder / "shards"), shard_mb=1,
        workers=workers,
    )  # fmt: skip
    started = time.monotonic()
    with PeakMemory() as memory:
        prepare(options, partial(connect, workers + 1, ["ray.data"]) if workers else None)
    seconds = time.monotonic() - started
    shards = sorted((folder / "shards").rglob("*.parquet"))
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in shards)).hexdigest()
    return {
        "seconds": seconds, "driver": memory.driver_peak / 2**20, "total": memory.peak / 2**20, "shards": len(shards),
        "sha256": digest,
    }  # fmt: skip


if __name__ == "__main__":
    main(parse(PrepareBenchmark, sys.argv[1:], "benchmark"))
