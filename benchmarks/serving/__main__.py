"""Requests per second of `fer serve`, beside other servers of the same model on the same machine.

    python -m benchmarks.serving --peer-python /tmp/peers/bin/python

Every server answers `POST /v1/predict` with one 350x350 JPEG photograph as a form. All but BentoML and LitServe, which
batch in their own way, get their batches from the same predictor, and none detects faces. `wrk` (Debian's package)
sends with 1, 8 and 32 connections; the servers take turns, round by round. The peers need an environment with
``bentoml``, ``litserve`` and Ferry's packages. Then `hey` sends to Ferry at half of the rate that it has reached.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import Field

from benchmarks.serving.load import Load, constant_rate, photographs, saturate
from benchmarks.serving.servers import Server, ferry, memory, peers
from fer.cpus import cpu_count
from fer.options import Options, parse

CONNECTIONS = (1, 8, 32)
MODELS = {
    "resnet18 at 224": {"backbone": "resnet18", "img_size": 224},
    "grey resnet at 64": {
        "backbone": "resnet18", "img_size": 64, "in_chans": 1,
        "model_kwargs": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
    },
}  # fmt: skip


class ServingBenchmark(Options):
    """Compare the speed of servers."""

    peer_python: str | None = Field(None, description="Python of an environment with bentoml and litserve; unset: none")
    models: list[str] = Field([*MODELS, "ferry-small"], description="Models, as JSON")
    rounds: int = Field(3, ge=1, description="Rounds; the servers take turns")
    seconds: int = Field(8, ge=1, description="Length of each measurement, in seconds")


def main(config: ServingBenchmark) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photos = photographs(Path(folder) / "photos")
        for name in config.models:
            model = make_model(name, Path(folder))
            compare(name, model, photos, config)


def compare(name: str, model: Path, photos: Path, config: ServingBenchmark) -> None:
    """The table of one model."""
    servers = [ferry(model)] + (peers(model, config.peer_python) if config.peer_python else [])
    rates: dict[str, dict[int, list[float]]] = {server.name: {c: [] for c in CONNECTIONS} for server in servers}
    limits: list[float] = []
    best: list[Load] = []
    used: list[float] = []
    for _ in range(config.rounds):
        limits.append(model_alone(model, photos))
        for server in servers:
            with server.running() as (url, process):
                saturate(url, photos, 8, 3)
                for connections in CONNECTIONS:
                    load = saturate(url, photos, connections, config.seconds)
                    assert not load.failed or server is not servers[0], f"{load.failed} failed requests"
                    rates[server.name][connections].append(load.rate)
                    print(
                        f"{name}, {server.name}, {connections} connections: {load.rate:.1f}/s, {load.failed} failed",
                        flush=True,
                    )
                if server is servers[0]:
                    half = max(rates[server.name][c][-1] for c in CONNECTIONS) / 2
                    best.append(constant_rate(url, photos, half, config.seconds))
                    used.append(memory(process))
    print_table(name, servers, rates, limits)
    print(f"Ferry at half of its best rate, ms: {describe([load.latencies for load in best])}")
    print(f"Ferry's memory, all processes: {statistics.median(used):.2f} GB", flush=True)


def print_table(
    name: str, servers: list[Server], rates: dict[str, dict[int, list[float]]], limits: list[float]
) -> None:
    limit = statistics.median(limits)
    print(
        f"\n{name}: the model alone, decoding included: {limit:.1f} images/s ({min(limits):.1f} to {max(limits):.1f})"
    )
    print(
        f"{'requests/s':<12}" + "".join(f"{connections:>4} conn." for connections in CONNECTIONS) + "   best of limit"
    )
    for server in servers:
        medians = [statistics.median(rates[server.name][connections]) for connections in CONNECTIONS]
        share = max(medians) / limit
        print(f"{server.name:<12}" + "".join(f"{rate:>10.1f}" for rate in medians) + f"{share:>14.2f}", flush=True)


def describe(latencies: list[dict[int, float]]) -> str:
    return ", ".join(
        f"p{percentile} {statistics.median(each[percentile] for each in latencies) * 1000:.1f}"
        for percentile in latencies[0]
    )


def make_model(name: str, folder: Path) -> Path:
    """A model folder with random weights, or a bundled model."""
    if name not in MODELS:
        from fer.registry import resolve_model
        from fer.tracking import TrackingOptions

        return resolve_model(name, TrackingOptions())
    from fer.classifier.model import build_model, new_spec, save_model
    from fer.classifier.options import ModelOptions
    from fer.labels import get_space

    spec = new_spec(ModelOptions.model_validate(MODELS[name]), get_space("basic"))
    out = folder / name.replace(" ", "-")
    save_model(build_model(spec), spec, out)
    return out


ALONE = """
import sys, time
from pathlib import Path
from fer.classifier.predictor import Predictor
from fer.data.images import decode_rgb
model, photos = sys.argv[1:]
predictor = Predictor([Path(model)], "cpu")
data = [file.read_bytes() for file in sorted(Path(photos).glob("*.jpg"))]
done, seconds = 0, 5.0
predictor.predict([decode_rgb(image) for image in data])
started = time.perf_counter()
while time.perf_counter() < started + seconds:
    predictor.predict([decode_rgb(data[(done + i) % len(data)]) for i in range(8)])
    done += 8
print(done / (time.perf_counter() - started))
"""


def model_alone(model: Path, photos: Path) -> float:
    """Images per second of the model in one process that does nothing else, in batches of 8, on all cores."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cpu_count())}
    command = [sys.executable, "-c", ALONE, str(model), str(photos)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


if __name__ == "__main__":
    main(parse(ServingBenchmark, sys.argv[1:], "serving benchmark"))
