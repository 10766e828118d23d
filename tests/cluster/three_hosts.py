"""A cluster of three hosts that share no folder, only an S3 server: jobs on it, and a host that is cut off in mid-run.

    unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc \
        python -m tests.cluster.three_hosts

The first host is the head, without CPUs for jobs. Prints what was seen.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.fixtures.hosts import HERE, Host, make_hosts

ROOT = Path(__file__).parents[2]
S3 = f"http://{HERE}:9000"
EPOCHS = 12
TRAIN = [
    *("train", "--data", "s3://ferry/shards", "--storage", "s3://ferry/runs", "--tracking-uri", f"http://{HERE}:5000"),
    *("--backbone", "resnet18", "--img-size", "32", "--workers", "2", "--epochs", str(EPOCHS)),
]


def main() -> None:
    token = "a" * 64
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN": token,
        "RAY_AUTH_MODE": "token",
        "AWS_ENDPOINT_URL": S3,
        "AWS_ACCESS_KEY_ID": "ferry",
        "AWS_SECRET_ACCESS_KEY": "ferry-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"http://{HERE}:5000",
    }
    head, *workers = make_hosts(3)
    start_servers(environment)
    cluster = Cluster(head, workers, environment)
    cluster.start()
    print(cluster.fer("cluster", "status"))
    cluster.prepare()
    print("train on two hosts:", cluster.train("two-hosts"))
    print("a host cut off:", cluster.train("cut-off", cut_off=workers[1]))


class Cluster:
    """The hosts, and this process as a user's machine outside of them."""

    def __init__(self, head: Host, workers: list[Host], environment: dict[str, str]) -> None:
        self.head, self.workers = head, workers
        self.environment = environment
        self.address = f"http://{head.address}:8265"

    def start(self) -> None:
        fer = [sys.executable, "-m", "jobs", "cluster", "start"]
        self.on(self.head, *fer, "--host", self.head.address, "--cpus", "1")
        for host in self.workers:
            self.on(host, *fer, "--join", f"{self.head.address}:6379", "--host", host.address, "--cpus", "2")

    def on(self, host: Host, *words: str) -> None:
        done = subprocess.run(host.command(words, self.environment), capture_output=True, text=True)
        print(f"{host.name}: {done.stdout}{done.stderr}", flush=True)
        assert done.returncode == 0

    def fer(self, *words: str) -> str:
        """A command of fer in this process's network, with the cluster's address."""
        environment = {**self.environment, "RAY_API_SERVER_ADDRESS": self.address, "HOME": "/mnt", "COLUMNS": "160"}
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *words], cwd="/mnt", env=environment, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def prepare(self) -> None:
        """Put shards of rendered faces into S3."""
        from fer.data.synthetic import write_faces

        write_faces(Path("/mnt/faces"), per_class=60, size=48)
        print(self.fer("prepare", "--data", "/mnt/faces", "--out", "s3://ferry/shards"), flush=True)

    def train(self, name: str, cut_off: Host | None = None) -> dict[str, object]:
        """Train; cut a host off after the third epoch. What the log says: hosts, epochs, restarts and seconds."""
        started = time.monotonic()
        if cut_off:
            threading.Thread(target=self.cut, args=(name, cut_off), daemon=True).start()
        log = self.fer("submit", "--code", "/mnt/empty", *TRAIN[:1], "--", *TRAIN[1:], "--name", name)
        epochs = [int(number) for number in re.findall(rf"epoch (\d+)/{EPOCHS}", log)]
        print(log[-3000:], flush=True)
        return {
            "seconds": round(time.monotonic() - started),
            "hosts": sorted(set(re.findall(r"10\.77\.0\.\d", log))),
            "epochs": epochs,
            "restarts": log.count("restart "),
        }

    def cut(self, name: str, host: Host) -> None:
        while f"epoch 3/{EPOCHS}" not in self.fer("jobs", "logs", name, "--no-follow"):
            time.sleep(1)
        print(f"{host.name} is cut off", flush=True)
        host.cut_off()


def start_servers(environment: dict[str, str]) -> None:
    """An S3 server with a bucket, and MLflow's server, in this process's network."""
    for folder in ("empty", "s3/ferry"):
        Path("/mnt", folder).mkdir(parents=True)
    commands = (
        ["rclone", "serve", "s3", "/mnt/s3", "--addr", f"{HERE}:9000", "--auth-key", "ferry,ferry-secret"],
        [
            *("mlflow", "server", "--host", HERE, "--port", "5000", "--allowed-hosts", "*"),
            *("--backend-store-uri", "sqlite:////mnt/mlflow.db", "--artifacts-destination", "/mnt/mlflow"),
        ],
    )
    for name, *arguments in commands:
        script = str(Path(sys.executable).with_name(name))
        subprocess.Popen([script, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for port in (9000, 5000):
        wait_for(port)


def wait_for(port: int) -> None:
    """Wait until a server of this process's network listens."""
    for _ in range(600):
        try:
            socket.create_connection((HERE, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()
