"""Ferry's default search (TPE with ASHA) against random search without early stopping, at equal wall time.

    python -m benchmarks.tune_search

The two take turns, a campaign each for every seed, on a small network and rendered faces. What counts is the best
validation score that a campaign found in its minutes; a campaign's start is not counted, trials' starts are.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from fer.options import Options, parse

ARMS: dict[str, dict[str, Any]] = {
    "TPE and ASHA": {"search": "tpe", "scheduler": "asha"},
    "random, no stopping": {"search": "random", "scheduler": "none"},
}


class SearchBenchmark(Options):
    """Compare searches at equal wall time."""

    minutes: float = Field(4, gt=0, description="Time budget of each campaign")
    seeds: int = Field(3, ge=1, description="Campaigns of each kind")
    rows: int = Field(1400, ge=200, description="Rendered faces")
    epochs: int = Field(9, ge=1, description="Epochs of a trial that is not stopped")
    out: str | None = Field(None, description="Keep the campaigns in this folder")


def main(config: SearchBenchmark) -> None:
    import ray

    from benchmarks.setup import rendered_faces
    from cluster.embedded import connect

    connect(2)
    best: dict[str, list[float]] = {arm: [] for arm in ARMS}
    trials: dict[str, list[int]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(config.out or scratch)
        shards = rendered_faces(out, config.rows, size=40, val_split=0.3)
        for seed in range(config.seeds):
            for number, arm in enumerate(ARMS):
                found = campaign(config, shards, out, f"seed-{seed}-{number}", seed, **ARMS[arm])
                best[arm].append(max(found))
                trials[arm].append(len(found))
                print({name: [round(value, 4) for value in values] for name, values in best.items()}, flush=True)
    ray.shutdown()
    for arm in ARMS:
        each = ", ".join(f"{value:.4f}" for value in best[arm])
        print(f"{arm:<22} mean {statistics.mean(best[arm]):.4f}   ({each}; trials begun: {trials[arm]})")


def campaign(config: SearchBenchmark, shards: Path, out: Path, name: str, seed: int, **arm: Any) -> list[float]:
    """The scores that a campaign's trials reached. The default point is left out of neither."""
    from fer.tuning.record import read_all
    from jobs.tune import Config, main

    fix = {"img_size": 40, "backbone": "narrow", "epochs": config.epochs, "warmup_epochs": 0.5, "threads": 1}
    main(
        Config(
            space="classifier_cpu",
            data=str(shards),
            out_dir=str(out / "runs"),
            name=name,
            seed=seed,
            num_trials=500,
            time_budget=config.minutes,
            max_concurrent=1,
            fix=fix | {"decode_threads": 1},
            **arm,
        )
    )
    return [record.score for record in read_all(out / "runs" / name) if record.score is not None]


if __name__ == "__main__":
    main(parse(SearchBenchmark, sys.argv[1:], "benchmark"))
