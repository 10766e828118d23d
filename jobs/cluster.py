"""`fer cluster`: start and stop a Ray cluster that outlives the command, or join one."""

from __future__ import annotations

from cluster.persistent import StartConfig
from cluster.submission import ClusterOptions
from fer.options import Options
from jobs.commands import Subcommand


class StopConfig(Options):
    """End this machine's node of the cluster. A head takes the cluster with it."""


class StatusConfig(ClusterOptions):
    """Show the cluster's nodes, and what they offer."""


def start(config: StartConfig) -> None:
    """Start a node."""
    from cluster.persistent import start

    print(start(config))


def stop(config: StopConfig) -> None:
    """End the node that `start` has started."""
    from cluster.persistent import stop

    print("Stopped." if stop() else "No cluster of this user runs on this machine.")


def status(config: StatusConfig) -> None:
    """Print a table of nodes."""
    import rich
    from rich.table import Table

    from cluster.inspection import nodes

    table = Table("node", "state", "CPUs", "GPUs", "memory", "other resources", "labels")
    for node in nodes(config):
        table.add_row(
            node.address + (" (head)" if node.head else ""),
            node.state.lower(),
            f"{node.resources.get('CPU', 0):g}",
            f"{node.resources.get('GPU', 0):g}",
            f"{node.resources.get('memory', 0) / 2**30:.0f} GiB",
            ", ".join(f"{name} {amount:g}" for name, amount in node.custom_resources().items()),
            ", ".join(f"{name}={value}" for name, value in node.labels.items()),
        )
    rich.print(table)


SUBCOMMANDS = {
    "start": Subcommand("Start a head, or a worker that joins one", StartConfig, start),
    "stop": Subcommand("End this machine's node", StopConfig, stop),
    "status": Subcommand("Show the cluster's nodes", StatusConfig, status),
}

if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("cluster"))
