"""`cluster/slurm.sh` on a real Slurm: a controller and two nodes, hosts in network namespaces of this machine.

    unshare --net --mount --pid --fork --kill-child --mount-proc python -m tests.cluster.on_slurm FOLDER

Run it as root; FOLDER, which is made, stands for the disk that the nodes share: not below /tmp, of which each node has
its own. Needs Debian's packages slurmctld, slurmd, slurm-client and munge, and the machine's cgroups (v1), which end a
job's processes. Takes ten minutes on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fixtures.hosts import Host, make_hosts, run
from tests.fixtures.hosts_cluster import MLFLOW, ROOT, start_servers, wait_for

CONFIG = """
ClusterName=ferry
SlurmctldHost=host1
SlurmUser=root
StateSaveLocation=/mnt/controller
SlurmdSpoolDir=/mnt/node
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=host1 NodeAddr=10.77.0.1 CPUs=2 RealMemory=4000
NodeName=host2 NodeAddr=10.77.0.2 CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES State=UP
"""
FREEZER = """
mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/freezer
mount -t cgroup -o freezer freezer /sys/fs/cgroup/freezer
"""
"""A host's network namespace has a /sys of its own, without the cgroups."""
TRAIN = ["train", "--data", "faces", "--storage", "runs", "--backbone", "test_resnet", "--img-size", "40"]
TRAIN += ["--threads", "1", "--batch-size", "16", "--workers", "2", "--cpus-per-worker", "1.5"]


def main(folder: Path) -> None:
    from fer.data.synthetic import write_faces

    folder.mkdir()
    (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n")
    run("mount", "--bind", str(folder / "hosts"), "/etc/hosts")
    hosts = make_hosts(2)
    start_servers()  # MLflow's is needed
    slurm = Slurm(folder, hosts)
    write_faces(folder / "faces", per_class=60, size=48)

    job = slurm.submit(*TRAIN, "--epochs", "12", "--name", "face")
    slurm.wait_for_line(job, "epoch 4/12")
    print("requeued:", slurm.run("scontrol", "requeue", job), flush=True)
    print(slurm.end(job), flush=True)
    print("wrong option:", slurm.end(slurm.submit("train", "--data", "nowhere")))
    job = slurm.submit(*TRAIN, "--epochs", "30", "--name", "crash")
    slurm.wait_for_line(job, "run crash")
    run(*slurm.first.command(["pkill", "--signal", "KILL", "--full", "jobs train"], slurm.environment))
    print("killed:", slurm.end(job))


class Slurm:
    """A running Slurm. ``folder`` is its shared disk, from which jobs are submitted."""

    def __init__(self, folder: Path, hosts: list[Host]) -> None:
        self.folder, self.first = folder, hosts[0]
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "FERRY_VENV": str(Path(sys.executable).parents[1]),
            "MLFLOW_TRACKING_URI": MLFLOW,
            "OMP_NUM_THREADS": "1",
        }
        (folder / "slurm.conf").write_text(CONFIG)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for host in hosts:
            run(*host.command(["sh", "-e", "-c", FREEZER], self.environment))
            munge = ["munged", "--force", "--key-file", str(key), "--log-file", "/mnt/munge.log"]
            munge += ["--seed-file", "/mnt/munge.seed", "--pid-file", "/run/munge/munged.pid"]
            self.start(host, "sh", "-c", "mkdir -p /run/munge /mnt/controller /mnt/node && exec " + " ".join(munge))
        time.sleep(2)
        self.start(hosts[0], "slurmctld", "-D")
        wait_for(hosts[0].address, 6817)
        for host in hosts:
            self.start(host, "slurmd", "-D", "-N", host.name)
        while (
            "idle" not in (nodes := self.run("sinfo", "--noheader", "--format", "%D %t %N")) or "host[1-2]" not in nodes
        ):
            time.sleep(1)
        print(self.run("sinfo", "--version"), nodes, flush=True)

    def start(self, host: Host, *words: str) -> None:
        with (self.folder / "daemons.log").open("a") as log:
            subprocess.Popen(host.command(words, self.environment), stdout=log, stderr=log)

    def run(self, *words: str) -> str:
        """Run a command on the first host, in the shared folder."""
        command = self.first.command(["sh", "-c", f'cd {self.folder} && exec "$@"', "sh", *words], self.environment)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout.strip()

    def submit(self, *words: str) -> str:
        """Submit `fer` as a job on both nodes; its id."""
        return self.run("sbatch", "--parsable", "--nodes", "2", str(ROOT / "cluster/slurm.sh"), *words)

    def log(self, job: str) -> str:
        file = self.folder / f"ferry-{job}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_for_line(self, job: str, text: str) -> None:
        while text not in self.log(job):
            time.sleep(0.5)

    def end(self, job: str) -> str:
        """Wait until a job has ended; its log, and how it ended."""
        started = time.monotonic()
        while True:
            words = self.run("scontrol", "show", "job", job).split()
            state = {word.partition("=")[0]: word.partition("=")[2] for word in words}
            if state.get("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"):
                ended = ["JobState", "ExitCode", "Restarts", "RunTime", "NodeList"]
                return f"{self.log(job)}\n{', '.join(f'{name} {state[name]}' for name in ended)}"
            assert time.monotonic() < started + 600, words
            time.sleep(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
