"""The head of a cluster is killed while another host serves: which requests are answered, and what comes back.

Then it is killed while the other host trains, and the job is resumed.

    unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc \
        python -m tests.cluster.head_killed redis        # or rocksdb, or memory: Ray's default

The head is started again 20 seconds later. Redis needs Debian's package redis-server. Takes five minutes.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.cluster.three_hosts import TRAIN, prepare, say, step_losses, wait_for_checkpoint
from tests.fixtures.hosts import HERE, make_hosts
from tests.fixtures.hosts_cluster import BUCKET, TOKEN, USER, HostsCluster, start_servers, wait_for

STORES = {
    "memory": {},
    "redis": {"RAY_REDIS_ADDRESS": f"{HERE}:6379"},
    "rocksdb": {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": "/mnt/home/gcs"},
}
WAIT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}  # of the nodes for their head; by default a minute
DOWN_SECONDS = 20
CLIENTS = 4


def main(store: str) -> None:
    head, worker = make_hosts(2)
    Path("/mnt/empty").mkdir()
    if store == "redis":
        redis = [str(shutil.which("redis-server")), "--bind", HERE, "--protected-mode", "no", "--save", "", "--dir"]
        subprocess.Popen([*redis, "/mnt"], stdout=subprocess.DEVNULL)
        wait_for(HERE, 6379)
    cluster = HostsCluster(head, cpus=0, **STORES[store], **WAIT)
    cluster.add(worker, cpus=4)
    options = ["--host", "0.0.0.0", "--apps", "classifier", "--min-replicas", "2", "--detector", "none"]
    for _, line in cluster.follow("submit", "serve", "--", *options, until="Serving at", FER_SERVE_TOKEN=TOKEN):
        print(line, end="")
    replicas = replicas_of(cluster)

    load = Load(worker.address)
    load.run(10)
    killed = time.monotonic()
    head.kill_all()
    load.run(DOWN_SECONDS)
    restart = threading.Thread(target=start_again, args=(cluster,))
    restart.start()
    while restart.is_alive():
        load.run(1)
    started = time.monotonic()
    load.run(20)
    print(f"{store}: the head was away for {started - killed:.0f} s")
    for phase, begin, end in (("before", 0, killed), ("head away", killed, started), ("after", started, 10**9)):
        print(f"{phase:>10}: {load.summary(begin, end)}")
    print("nodes:", [(node["node_ip"], node["state"]) for node in cluster.ask("nodes")])
    print(f"replicas: {len(replicas)} before, {len(replicas & replicas_of(cluster))} of them alive")
    time.sleep(60)
    print(cluster.fer("jobs", "list"))
    load.run(2)
    print(f"a minute later: {load.summary(time.monotonic() - 3, 10**9)}", flush=True)
    if store != "memory":
        shut_down(cluster)
        train(cluster)


def shut_down(cluster: HostsCluster) -> None:
    """End the replicas of the job that is lost, which go on without it."""
    lost = next(job["submission_id"] for job in cluster.ask("jobs") if job["submission_id"])
    say(resume(cluster, lost))
    serve = str(Path(sys.executable).with_name("serve"))
    subprocess.run([serve, "shutdown", "--yes", "--address", cluster.address], env=USER, check=True)
    say(f"{len(replicas_of(cluster))} replicas")


def train(cluster: HostsCluster) -> None:
    """Train, kill the head in the fourth epoch, start it again, and resume the job."""
    start_servers()
    prepare(cluster)
    say(cluster.fer("submit", "--no-wait", "train", "--", *TRAIN, "--workers", "1", "--name", "face"))
    wait_for_checkpoint("face")
    cluster.head.kill_all()
    say("killed in the fourth epoch")
    start_again(cluster)
    say(cluster.fer("jobs", "list") + resume(cluster, "face"))
    epochs = [entry["epoch"] for entry in json.loads((BUCKET / "runs/face/history.json").read_text())]
    steps = step_losses("face")
    say(f"epochs {epochs}; {len(dict(steps))} steps, logged twice: {len(steps) - len(dict(steps))}")


def resume(cluster: HostsCluster, job: str) -> str:
    return cluster.fer("jobs", "resume", job)


def start_again(cluster: HostsCluster) -> None:
    """Start the head. Ray gives up after 30 seconds, which are not enough on a machine that is busy with others."""
    while True:
        try:
            return cluster.start_head()
        except AssertionError as error:
            print(error)


def replicas_of(cluster: HostsCluster) -> set[str]:
    actors = [actor for actor in cluster.ask("actors") if actor["state"] == "ALIVE"]
    return {actor["actor_id"] for actor in actors if actor["class_name"].startswith("ServeReplica")}


class Load:
    """Clients that send one request after the other, on a connection each."""

    def __init__(self, address: str) -> None:
        from fer.data.synthetic import write_faces

        write_faces(Path("/mnt/asked"), per_class=1, size=48)
        self.face = next(Path("/mnt/asked").rglob("*.png")).read_bytes()
        self.address = address
        self.seen: list[tuple[float, float, Any]] = []
        """Start, seconds, and status or error of each request."""

    def run(self, seconds: float) -> None:
        clients = [threading.Thread(target=self._send, args=(time.monotonic() + seconds,)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    def _send(self, until: float) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
        connection = HTTPConnection(self.address, 8000, timeout=10)
        while (started := time.monotonic()) < until:
            try:
                connection.request("POST", "/v1/predict", self.face, headers)
                response = connection.getresponse()
                json.loads(response.read())
                outcome: Any = response.status
            except (OSError, HTTPException, ValueError) as error:
                outcome = type(error).__name__
                connection.close()
                time.sleep(0.1)
            self.seen.append((started, time.monotonic() - started, outcome))
            time.sleep(0.02)

    def summary(self, begin: float, end: float) -> str:
        seen = [each for each in self.seen if begin <= each[0] < end]
        times = [seconds for _, seconds, outcome in seen if outcome == 200] or [0.0]
        slowest, median = 1000 * max(times), 1000 * statistics.median(times)
        return f"{dict(Counter(each[2] for each in seen))}; median {median:.0f} ms, slowest {slowest:.0f} ms"


if __name__ == "__main__":
    main(sys.argv[1])
