"""Clusters of several nodes: waiting for nodes that start later, GPUs on some nodes, clusters that ask for a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.nodes import Nodes

pytestmark = pytest.mark.slow

CONNECT = """
import sys
from cluster.local import start_or_join
from cluster.preflight import wait_for_room
from fer.errors import UserError
try:
    start_or_join(cpus=2)
    wait_for_room(2, [], float(sys.argv[1]))
    print("connected", flush=True)
except UserError as error:
    print(error, flush=True)
"""

MODELS = """
import json
import sys
from pathlib import Path

import ray
from cluster.local import connect
from fer.classifier.evaluate import distributed as evaluation
from fer.classifier.predict import distributed as prediction
from fer.classifier.predict.options import PredictConfig
from fer.data.manifest import ShardedDataset
from fer.errors import UserError

def place(device):
    return f"{device}, GPUs {ray.get_runtime_context().get_accelerator_ids()['GPU']}"

def evaluate(model, *_):
    raise UserError(place(model[1]))
    yield

class Predict:
    def __init__(self, models, options, base):
        self.device = options.device

    def __call__(self, batch):
        rows = json.dumps([{"path": "a", "error": place(self.device)}])
        return {"rows": [rows] * len(batch["path"])}

connect(cpus=1)
evaluation._evaluate, prediction.PredictActor = evaluate, Predict
for device in ("auto", "cpu"):
    try:
        evaluation.evaluate_on_ray("model", device, False, 1, ShardedDataset(sys.argv[1]), "val")
    except UserError as error:
        print(f"evaluation, {device}: {error}", flush=True)
options = PredictConfig(paths=["a"], device="auto")
(row,), = prediction.predict_files_on_ray(["model"], options, Path("."), ["a"])
print(f"prediction, auto: {row.error}", flush=True)
"""


@pytest.fixture(scope="module")
def nodes(start_nodes: Callable[..., Any]) -> Iterator[Nodes]:
    with start_nodes() as started:
        yield started


def test_a_cluster_without_cpus_is_refused_when_the_time_is_over(nodes: Nodes) -> None:
    output, _ = nodes.run("-c", CONNECT, "2").communicate(timeout=300)
    waiting, refused = [line for line in output.splitlines() if "has 0 of the 2 CPUs that the job needs" in line]
    assert waiting.endswith("or add nodes: waiting 2 s at most for more nodes (--start-timeout)")
    assert refused.endswith("use fewer --workers or a lower --cpus-per-worker, or add nodes")


def test_nodes_that_start_later_are_waited_for(nodes: Nodes) -> None:
    driver = nodes.run("-c", CONNECT, "300")
    assert driver.stdout is not None
    lines = iter(driver.stdout.readline, "")
    assert "waiting 300 s at most for more nodes" in next(line for line in lines if "the cluster has" in line)
    nodes.add(cpus=2)
    assert "connected\n" in list(lines)


def test_a_cluster_with_a_token_says_how_to_give_it(start_nodes: Callable[..., Any]) -> None:
    without, wrong = {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    with start_nodes(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 4) as nodes:
        drivers = [nodes.run("-c", CONNECT, "0", **given) for given in (without, wrong)]
        for driver in drivers:
            output, _ = driver.communicate(timeout=300)
            assert f"the Ray cluster at {nodes.address} asks for a token: set RAY_AUTH_MODE=token" in output
            assert "Traceback" not in output


def test_a_cluster_need_not_have_what_a_ray_of_our_own_would_get(nodes: Nodes) -> None:
    program = "from cluster.local import connect; connect(cpus=2, local_cpus=64); print('connected')"
    output, _ = nodes.run("-c", program).communicate(timeout=300)
    assert "connected\n" in output


def test_models_run_on_the_node_with_a_gpu(nodes: Nodes, small_shards: Path) -> None:
    """The driver's node has none."""
    nodes.add(cpus=2, gpus=1)
    output, _ = nodes.run("-c", MODELS, str(small_shards)).communicate(timeout=400)
    assert "evaluation, auto: gpu, GPUs ['0']" in output, output
    assert "evaluation, cpu: cpu, GPUs []" in output, output
    assert "prediction, auto: gpu, GPUs ['0']" in output, output
