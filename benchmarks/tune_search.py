"""Ferry's default search (TPE with ASHA) against random search without early stopping, at equal wall time.

    python -m benchmarks.tune_search

The two alternate, one sweep each per seed, with a small network on rendered faces. Both start with the default options;
time is measured from the end of that trial and includes the start-up of trials. Compared is the best validation score
that each had found after the same number of seconds: as many as the shortest sweep lasted.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from fer.options import Options, parse
from fer.tuning.trial_record import TrialRecord, read_records

ARMS: dict[str, dict[str, Any]] = {
    "TPE and ASHA": {"search": "tpe", "scheduler": "asha"},
    "random, no stopping": {"search": "random", "scheduler": "none"},
}


class SearchBenchmark(Options):
    """Compare searches at equal wall time."""

    minutes: float = Field(4, gt=0, description="Time budget of each sweep, its first trial included")
    seeds: int = Field(3, ge=1, description="Sweeps of each kind")
    rows: int = Field(1400, ge=200, description="Rendered faces")
    epochs: int = Field(9, ge=1, description="Epochs of a trial that is not stopped")
    out: str | None = Field(None, description="Keep the sweeps in this folder")


def main(config: SearchBenchmark) -> None:
    import ray

    from benchmarks.setup import rendered_faces
    from cluster.local import connect

    connect(2)
    found: dict[str, list[list[TrialRecord]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(config.out or scratch)
        shards = rendered_faces(out, config.rows, size=40, val_split=0.3)
        for seed in range(config.seeds):
            for number, arm in enumerate(ARMS):
                found[arm].append(sweep_records(config, shards, out, f"seed-{seed}-{number}", seed, **ARMS[arm]))
    ray.shutdown()
    seconds = min(duration(records) for sweeps in found.values() for records in sweeps)
    print(f"after {seconds:.0f} s:")
    for arm, sweeps in found.items():
        best = [max(scores(records, seconds)) for records in sweeps]
        started = [len(records) - 1 for records in sweeps]
        each = ", ".join(f"{value:.4f}" for value in best)
        print(f"{arm:<22} mean {statistics.mean(best):.4f}   (seeds: {each}; trials started in all: {started})")


def sweep_records(
    config: SearchBenchmark, shards: Path, out: Path, name: str, seed: int, **arm: Any
) -> list[TrialRecord]:
    """The trials of one sweep, the default first."""
    from jobs.tune import Config, main

    fixed = {"img_size": 40, "backbone": "narrow", "epochs": config.epochs, "warmup_epochs": 0.5, "threads": 1}
    main(
        Config(
            space="classifier_cpu",
            data=str(shards),
            storage=str(out / "runs"),
            name=name,
            seed=seed,
            num_trials=500,
            time_budget=config.minutes,
            max_concurrent=1,
            set=fixed | {"decode_threads": 1},
            **arm,
        )
    )
    return read_records(out / "runs" / name)


def since_default(records: list[TrialRecord]) -> list[tuple[float, float]]:
    """Seconds since the default trial ended, and the score, of every epoch of the others."""
    start = records[0].history[-1]["time"]
    return [(entry["time"] - start, entry["score"]) for record in records[1:] for entry in record.history]


def duration(records: list[TrialRecord]) -> float:
    return max(seconds for seconds, _ in since_default(records))


def scores(records: list[TrialRecord], seconds: float) -> list[float]:
    return [score for at, score in since_default(records) if at <= seconds]


if __name__ == "__main__":
    main(parse(SearchBenchmark, sys.argv[1:], "benchmark"))
