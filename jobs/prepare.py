"""`fer prepare`: convert a data set to validated, shuffled Parquet shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer.data.options import PrepareOptions as Config

if TYPE_CHECKING:
    from fer.data.manifest import Manifest

__all__ = ["Config", "main"]


def main(config: Config) -> None:
    from fer.data.manifest import REJECTED_ROWS
    from fer.data.prepare import prepare

    def connect() -> None:
        from cluster.local import connect

        connect(max(config.workers, 1) + 1, meanwhile=["ray.data"])

    dataset = prepare(config, connect)
    manifest = dataset.manifest
    print_counts(manifest)
    if manifest.rejected:
        print(f"Rejected rows (listed in {dataset.root}/{REJECTED_ROWS}):")
        for reason, count in manifest.rejected.items():
            print(f"  {count:>7,}  {reason}")
    rows = sum(split.rows for split in manifest.splits.values())
    print(f"Prepared {rows:,} {manifest.kind} of {config.data} ({manifest.format}): {dataset.root}")
    if "train" in manifest.splits:
        job = "train" if manifest.kind == "faces" else "sft"
        print(f"Next: fer {job} --data {dataset.root}")


def print_counts(manifest: Manifest) -> None:
    """Print a table of rows per label and split."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"label space {manifest.label_space}")
    table.add_column("label")
    for split in manifest.splits:
        table.add_column(split, justify="right")
    for label in manifest.labels:
        table.add_row(label, *(f"{split.counts.get(label, 0):,}" for split in manifest.splits.values()))
    table.add_section()
    table.add_row("all", *(f"{split.rows:,}" for split in manifest.splits.values()))
    Console().print(table)


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("prepare"))
