"""`--workers 1..2` on real nodes: waits for the first, takes in the second, and survives the loss of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer.data.manifest import ShardedDataset

EPOCHS = 6
TRAIN = """
import sys
from fer.classifier import train
from fer.training import launch
from jobs.__main__ import main

rows_file = sys.argv.pop(1)

def train_and_count(settings):
    import time
    from pathlib import Path
    from fer.classifier.train import ClassifierTrainer, train_classifier

    train_epoch = ClassifierTrainer.train_epoch

    def counted(self, batches):
        while self.state.epoch >= int(Path(rows_file + ".allowed").read_text()):
            time.sleep(0.05)
        metrics = train_epoch(self, batches)
        if self.worker.is_rank_zero:
            with open(rows_file, "a") as file:
                print(self.state.epoch, self.state.rows, self.state.consumed, sep="\\t", file=file)
        return metrics

    ClassifierTrainer.train_epoch = counted
    train_classifier(settings)

launch.RESIZE_SECONDS = 2
train.train_classifier = train_and_count
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.faults
@pytest.mark.slow
def test_a_group_grows_and_shrinks_with_the_cluster(
    start_nodes: Callable[..., Any], small_shards: Path, tmp_path: Path
) -> None:
    words = ["train", "--data", str(small_shards), "--storage", str(tmp_path), "--name", "elastic", "--img-size", "40"]
    words += ["--backbone", "test_resnet", "--batch-size", "32", "--epochs", str(EPOCHS), "--workers", "1..2"]
    words += ["--threads", "1", "--checkpoint-every", "4", "--start-timeout", "200", "--worker-labels", "role=trainer"]
    rows_file = tmp_path / "rows"

    def allow(epochs: int) -> None:
        """Let the workers train so many epochs: the run is not over before the nodes have come and gone."""
        (tmp_path / "new").write_text(str(epochs))
        (tmp_path / "new").replace(f"{rows_file}.allowed")

    allow(2)
    with start_nodes() as nodes:
        driver = nodes.run("-c", TRAIN, str(rows_file), *words)
        seen: list[str] = []

        def wait_for(*texts: str) -> None:
            for line in iter(driver.stdout.readline, ""):
                seen.append(line)
                if any(text in line for text in texts):
                    return
            raise AssertionError(f"no {texts} in\n{''.join(seen)}")

        wait_for("waiting 200 s at most for more nodes")
        nodes.add(cpus=2, role="trainer")
        wait_for("training with 1 workers")
        wait_for("epoch")
        nodes.add(cpus=2, role="trainer")
        wait_for("the cluster has room for 2 workers: going on with them, from the latest checkpoint")
        allow(4)
        wait_for("epoch")
        nodes.remove_oldest()
        allow(EPOCHS)
        # Whichever is noticed first: the lost node, or its worker.
        wait_for("the cluster has room for 1 workers: going on with them", "training with 1 workers")
        seen.append(driver.stdout.read())
        assert driver.wait(300) == 0, "".join(seen)
    history = json.loads((tmp_path / "elastic" / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, EPOCHS + 1))
    rows = ShardedDataset(str(small_shards)).split("train").rows
    epochs = dict(line.split("\t")[:2] for line in rows_file.read_text().splitlines())
    assert list(epochs) == [str(epoch) for epoch in range(EPOCHS)]
    assert all(rows - 2 * 32 < int(each) <= rows for each in epochs.values()), (
        "however many workers divided an epoch, only what fills no last batch is left out"
    )
