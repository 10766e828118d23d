"""How starting a job grows with the number of nodes: raylets on this machine, in a process of its own for each number.

    python -m benchmarks.cluster_size 1 4 16 48

Each node has two logical CPUs. All of them share this machine's cores, so times say how the work grows, not how long a
real cluster takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

TASKS = 1000
IDLE = 20
"""Seconds without work, in which the CPU time of Ray's own processes is measured."""


def main(sizes: list[str]) -> None:
    for size in sizes:
        done = subprocess.run([sys.executable, "-m", __spec__.name, "--nodes", size], stdout=subprocess.PIPE, text=True)
        print(done.stdout.splitlines()[-1], flush=True)


def measure(nodes: int) -> None:
    """Print what a cluster of that many nodes takes, as JSON: seconds, MiB and CPU seconds."""
    for setting in ("RAY_enable_worker_prestart", "RAY_prestart_worker_first_driver"):
        os.environ.setdefault(setting, "0")  # they would start processes that nothing here uses
    # Of 48 processes that start on two cores, most take longer than a minute, and would be started again and again.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "900")
    import ray
    from ray.cluster_utils import Cluster
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

    from cluster.local import start_or_join
    from cluster.preflight import alive_nodes, check_nodes, find_problem
    from fer.training.placement import Bundle

    result: dict[str, float] = {"nodes": nodes}

    def timed(name: str, what: Callable[[], object]) -> None:
        started = time.perf_counter()
        what()
        result[name] = round(time.perf_counter() - started, 3)

    def start() -> None:
        for _ in range(nodes):
            cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
        cluster.wait_for_nodes(timeout=600)

    cluster = Cluster()
    timed("start", start)
    os.environ["RAY_ADDRESS"] = cluster.address
    timed("connect", lambda: start_or_join(1))
    workers_bundle = Bundle("worker", nodes, {"CPU": 1.0}, "--workers")
    timed("find room", lambda: find_problem(nodes, [workers_bundle]))
    group = placement_group([{"CPU": 1}] * nodes, strategy="STRICT_SPREAD")
    timed("placement group", lambda: ray.get(group.ready(), timeout=600))

    @ray.remote(num_cpus=1)
    class Worker:
        def ready(self) -> None:
            pass

    def strategy(index: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)

    workers = []

    def start_workers() -> None:
        workers.extend(Worker.options(scheduling_strategy=strategy(index)).remote() for index in range(nodes))
        ray.get([worker.ready.remote() for worker in workers], timeout=900)

    timed("start workers", start_workers)
    timed("call workers", lambda: ray.get([worker.ready.remote() for worker in workers]))
    nothing = ray.remote(num_cpus=1)(lambda: None)

    def start_processes() -> None:
        """One for tasks on every node; otherwise, the time of the tasks would be that of starting processes."""
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive_nodes()]
        ray.get([nothing.options(scheduling_strategy=each).remote() for each in strategies], timeout=900)

    timed("start processes", start_processes)
    spread = nothing.options(scheduling_strategy="SPREAD")
    timed(f"{TASKS} tasks", lambda: ray.get([spread.remote() for _ in range(TASKS)], timeout=900))
    timed("check nodes", lambda: check_nodes("/tmp/fer-cluster-size"))
    result["driver MiB"] = round(psutil.Process().memory_info().rss / 2**20)
    before = cpu_seconds("gcs_server"), cpu_seconds("raylet")
    time.sleep(IDLE)
    for name, seconds in zip(("gcs_server", "raylet"), before, strict=True):
        found = processes(name)
        result[f"{name} MiB"] = round(sum(each.memory_info().rss for each in found) / 2**20 / len(found))
        result[f"{name} idle CPU %"] = round(100 * (cpu_seconds(name) - seconds) / IDLE / len(found), 2)
    result["connections of gcs_server"] = len(processes("gcs_server")[0].net_connections("tcp"))
    print(json.dumps(result))
    ray.shutdown()
    cluster.shutdown()


def processes(name: str) -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.name().startswith(name)]


def cpu_seconds(name: str) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes(name))


if __name__ == "__main__":
    if sys.argv[1] == "--nodes":
        measure(int(sys.argv[2]))
    else:
        main(sys.argv[1:])
