"""Jobs on a cluster of three hosts that share no folder, only an S3 server, and a host that is cut off in mid-run.

    unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc \
        python -m tests.cluster.three_hosts            # or some of its parts: notice train sft tune ferbench serve

The first host is the head, without CPUs for jobs. Takes about ten minutes on two cores, and prints what was seen.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from fer.registry import BUNDLED, DEFAULT_MODEL
from fer.storage import upload_folder
from tests.fixtures.hosts import Host, make_hosts, run
from tests.fixtures.hosts_cluster import BUCKET, MLFLOW, NODE, USER, HostsCluster, run_on, start_servers

EPOCHS = 12
STORAGE = ["--storage", "s3://ferry/runs"]
TRAIN = [
    *("--data", "s3://ferry/shards", *STORAGE, "--backbone", "test_resnet", "--img-size", "40", "--threads", "1"),
    *("--epochs", str(EPOCHS), "--batch-size", "16", "--checkpoint-every", "4", "--device", "cpu"),
    *("--workers", "2", "--cpus-per-worker", "1.5"),  # a host of two CPUs has room for one
]
PARTS = ["notice", "train", "sft", "tune", "ferbench", "serve"]
ROUNDS = 60
"""How often each face is asked about."""
SERVE_TOKEN = "0123456789abcdef"


def main(parts: list[str]) -> None:
    head, first, second, spare = make_hosts(4)
    start_servers()
    cluster = HostsCluster(head, cpus=0)
    gpus = int(parts == ["serve"])  # jobs of the other parts would ask for them, too
    for host in (first, second):
        cluster.add(host, cpus=2, gpus=gpus)
    say(cluster.fer("cluster", "status"))
    prepare(cluster)
    if {"train", "notice"} & set(parts):
        train(cluster, "two-hosts")
    if "notice" in parts:
        give_notice(cluster, second, spare)
    if "train" in parts:
        lose(cluster, second, spare)
        move(cluster, second)
    else:
        cluster.add(spare, cpus=2, gpus=gpus)
    if "sft" in parts:
        fine_tune(cluster)
    if "tune" in parts:
        tune(cluster)
    if "ferbench" in parts:
        ferbench(cluster, spare)
    if "serve" in parts:
        serve(cluster, [head, first, spare])


def say(what: object) -> None:
    print(f"[{time.monotonic() - STARTED:.0f} s]", what, flush=True)


STARTED = time.monotonic()


def prepare(cluster: HostsCluster) -> None:
    """Put shards of rendered faces into S3."""
    from fer.data.synthetic import write_faces

    write_faces(Path("/mnt/faces"), per_class=60, size=48)
    say(cluster.fer("prepare", "--data", "/mnt/faces", "--out", "s3://ferry/shards", "--val-split", "0.15"))


def submit(cluster: HostsCluster, job: str, *options: str, until: str = "", **environment: str) -> list[str]:
    """Submit a job; print and return its log, each line with the time."""
    lines = cluster.follow("submit", job, "--", *options, until=until, **environment)
    log = [f"[{at - STARTED:.0f} s] {line.rstrip()}" for at, line in lines]
    print("\n".join(log), flush=True)
    return log


def train(cluster: HostsCluster, name: str, disturb: Callable[[], None] | None = None) -> None:
    """Train, while ``disturb`` runs; say on which hosts, and whether it differs from the run of two hosts."""
    before, started = cluster.actors(is_trainer), time.monotonic()
    thread = threading.Thread(target=disturb or time.monotonic)
    thread.start()
    submit(cluster, "train", *TRAIN, "--name", name)
    thread.join()
    hosts = Counter(host for actor, host in cluster.actors(is_trainer).items() if actor not in before)
    say(f"{name}: {time.monotonic() - started:.0f} s, training workers on {dict(hosts)}")
    compare(name)


def is_trainer(actor: str) -> bool:
    return actor == "RayTrainWorker"


def compare(name: str) -> None:
    """Say whether each epoch and each step of a run has the very loss that it had in the run of two hosts."""
    histories = [json.loads((BUCKET / "runs" / run / "history.json").read_text()) for run in ("two-hosts", name)]
    losses = [[(entry["epoch"], entry["train_loss"], entry["val_accuracy"]) for entry in each] for each in histories]
    steps = [step_losses(run) for run in ("two-hosts", name)]
    values = [dict(each) for each in steps]
    say(
        f"{name}: {len(losses[1])} epochs, the same losses: {losses[0] == losses[1]}; {len(values[1])} steps, the same "
        f"losses: {values[0] == values[1]}; logged twice: {len(steps[1]) - len(values[1])}"
    )


def step_losses(run: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    record = json.loads((BUCKET / "runs" / run / "run.json").read_text())
    points = MlflowClient(MLFLOW).get_metric_history(record["mlflow_run_id"], "step_loss")
    return [(point.step, point.value) for point in points]


def wait_for_checkpoint(name: str) -> None:
    """Wait until a run has a checkpoint inside its fourth epoch."""
    while True:
        for file in (BUCKET / "runs" / name).glob("checkpoint_*/trainer_state.json"):
            try:
                state = json.loads(file.read_text())
            except (OSError, ValueError):
                continue  # being written or deleted
            if state["epoch"] >= 3 and state["batch"]:
                return
        time.sleep(0.05)


def lose(cluster: HostsCluster, host: Host, spare: Host) -> None:
    """Train, and cut a host off; another one joins."""

    def disturb() -> None:
        wait_for_checkpoint("cut-off")
        host.cut_off()
        say(f"{host.name} is cut off; {spare.name} joins")
        cluster.add(spare, cpus=2)
        say(f"{spare.name} has joined")

    train(cluster, "cut-off", disturb)


def give_notice(cluster: HostsCluster, second: Host, spare: Host) -> None:
    """Train, and stop a host's node; once more, and announce that a host will be taken away. Another one joins."""

    def stop() -> None:
        wait_for_checkpoint("stopped")
        say(f"{second.name}: {run_on(second, 'cluster', 'stop')}")
        cluster.add(spare, cpus=2)

    def announce() -> None:
        wait_for_checkpoint("announced")
        words = ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        words += ["--deadline-remaining-seconds", "100"]
        run(*spare.command([str(Path(sys.executable).with_name("ray")), *words], NODE))
        say(f"{spare.name} is announced to be taken away")
        time.sleep(30)
        spare.kill_all()
        cluster.add(second, cpus=2)

    train(cluster, "stopped", stop)
    train(cluster, "announced", announce)


def move(cluster: HostsCluster, host: Host) -> None:
    """Train on one cluster, stop, and go on at another one, of a host that has never seen the run."""

    def stop() -> None:
        wait_for_checkpoint("moved")
        say(cluster.fer("jobs", "stop", "moved"))

    thread = threading.Thread(target=stop)
    thread.start()
    submit(cluster, "train", *TRAIN, "--name", "moved")
    thread.join()
    host.reconnect()
    say(f"{host.name} is back; {run_on(host, 'cluster', 'stop')}")
    other = HostsCluster(host, cpus=4)
    train(other, "moved")
    say(run_on(host, "cluster", "stop"))


def fine_tune(cluster: HostsCluster) -> None:
    """Fine-tune a tiny vision-language model on two hosts."""
    questions, shards = "/mnt/questions.jsonl", "s3://ferry/questions"
    say(cluster.fer("questions", "--data", "/mnt/faces", "--out", questions, "--limit", "80"))
    prepare = ["--format", "vqa", "--data", questions, "--image-root", "/mnt/faces", "--out", shards]
    say(cluster.fer("prepare", *prepare, "--val-split", "0.2"))
    before = cluster.actors(is_trainer)
    words = ["--data", shards, *STORAGE, "--name", "sft", "--model", "tiny:qwen2.5-vl", "--image-size", "28"]
    words += ["--workers", "2", "--cpus-per-worker", "1.5", "--batch-size", "4", "--no-grad-checkpointing"]
    words += ["--lora", "lora", "--eval-rows", "8", "--eval-generations", "2", "--eval-max-new-tokens", "8"]
    submit(cluster, "sft", *words)
    say(f"sft: {Counter(host for actor, host in cluster.actors(is_trainer).items() if actor not in before)}")


def tune(cluster: HostsCluster) -> None:
    """A sweep of four trials."""
    before = cluster.actors(bool)
    fixed = {"img_size": 40, "backbone": "narrow", "epochs": 3, "decode_threads": 1, "batch_size": 32}
    words = ["--space", "classifier_cpu", "--data", "s3://ferry/shards", *STORAGE, "--name", "sweep"]
    words += ["--num-trials", "4", "--search", "random", "--scheduler", "none"]
    submit(cluster, "tune", *words, *(word for name, value in fixed.items() for word in ("--set", f"{name}={value}")))
    classes = {actor["actor_id"]: actor["class_name"] for actor in cluster.ask("actors")}
    new = Counter((classes[actor], host) for actor, host in cluster.actors(bool).items() if actor not in before)
    say(f"sweep: {dict(new)}")


def ferbench(cluster: HostsCluster, host: Host) -> None:
    """Ask the bundled model about all faces, many times: undisturbed, and while a host is cut off."""
    uri, folder = "s3://ferry/ferbench", Path("/mnt/ferbench")
    shutil.copytree("/mnt/faces", folder / "faces")
    shutil.copytree(BUNDLED / DEFAULT_MODEL, folder / "model")
    say(cluster.fer("questions", "--data", "/mnt/faces", "--kind", "ferbench", "--out", "/mnt/ask.jsonl"))
    (folder / "questions.jsonl").write_text(Path("/mnt/ask.jsonl").read_text() * ROUNDS)
    os.environ.update({name: value for name, value in USER.items() if name.startswith("AWS_")})
    upload_folder(folder, uri)
    words = [f"{uri}/model", "--questions", f"{uri}/questions.jsonl", "--image-root", f"{uri}/faces", *STORAGE]
    words += ["--out", f"{uri}/answers", "--workers", "2"]

    def cut_off() -> None:
        while len(list((BUCKET / "ferbench/answers/cut-off").rglob("*.jsonl"))) < 2:
            time.sleep(0.1)
        host.cut_off()
        say(f"{host.name} is cut off")

    for name, disturb in (("undisturbed", time.monotonic), ("cut-off", cut_off)):
        before, started = cluster.actors(is_mapper), time.monotonic()
        thread = threading.Thread(target=disturb)
        thread.start()
        submit(cluster, "ferbench", "run", *words, "--name", name)
        thread.join()
        hosts = Counter(host for actor, host in cluster.actors(is_mapper).items() if actor not in before)
        rows, responses = answers(name)
        say(f"{name}: {time.monotonic() - started:.0f} s, workers on {dict(hosts)}")
        errors = sum("error" in row for row in rows)
        say(f"{name}: {len(rows)} questions, {errors} errors; answered again: {responses - len(rows)}")
    say(f"the same answers: {answers('undisturbed')[0] == answers('cut-off')[0]}")
    host.reconnect()


def is_mapper(actor: str) -> bool:
    return actor.startswith("MapWorker")


def answers(name: str) -> tuple[list[dict[str, Any]], int]:
    """The rows of a model's results, and how many responses its workers gave."""
    folder = BUCKET / "ferbench/answers" / name
    rows = json.loads((folder / "questions.json").read_text())
    return rows, json.loads((folder / "run.json").read_text())["usage"]["responses"]


def serve(cluster: HostsCluster, hosts: list[Host]) -> None:
    """Serve a registered model on all hosts, two replicas to a GPU; ask each host; move the alias; stop."""
    from fer.data.synthetic import write_faces

    for number, alias in ((1, "champion"), (2, "challenger")):
        words = [*TRAIN, "--epochs", str(number), "--name", f"version{number}", "--register-as", "face"]
        submit(cluster, "train", *words, "--alias", alias)
    words = ["--host", "0.0.0.0", "--model", "models:/face@champion", "--apps", "classifier", "--reload-seconds", "1"]
    words += ["--min-replicas", "4", "--cpus-per-replica", "0.5", "--gpus-per-replica", "0.5"]
    submit(cluster, "serve", *words, "--detector", "none", until="Serving at", FER_SERVE_TOKEN=SERVE_TOKEN)
    say(Counter(cluster.actors(lambda actor: actor.startswith("ServeReplica")).values()))
    write_faces(Path("/mnt/asked"), per_class=1, size=48)
    face = next(Path("/mnt/asked").rglob("*.png")).read_bytes()
    headers = {"Authorization": f"Bearer {SERVE_TOKEN}", "Content-Type": "image/png"}
    for host in hosts:
        try:
            request = Request(f"http://{host.address}:8000/v1/predict", face, headers)
            with urlopen(request, timeout=30) as response:
                say(f"{host.name} answers {response.status}: {response.read()[:150]!r}")
        except OSError as error:
            say(f"{host.name}: {error}")
    say(cluster.fer("promote", "face"))
    moved, old = time.monotonic(), set(hosts)
    while old:
        for host in list(old):
            with urlopen(Request(f"http://{host.address}:8000/healthz", headers=headers), timeout=30) as response:
                if json.load(response)["model"]["version"] == "2":
                    old.remove(host)
                    say(f"{host.name} serves version 2 after {time.monotonic() - moved:.0f} s")
    job = next(job["submission_id"] for job in cluster.ask("jobs") if "serve" in (job["entrypoint"] or ""))
    say(cluster.fer("jobs", "stop", job))
    say(cluster.fer("jobs", "list"))
    time.sleep(10)
    alive = [actor["class_name"] for actor in cluster.ask("actors") if actor["state"] == "ALIVE"]
    say(f"left after the server was stopped: {Counter(alive)}")


if __name__ == "__main__":
    main(sys.argv[1:] or PARTS)
