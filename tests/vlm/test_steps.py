"""Optimizer steps under DeepSpeed: against transformers' Trainer, on one and two workers, and the size of its state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cluster.ports import free_port
from fer.data.manifest import ShardedDataset
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import row_image, row_turns
from fer.vlm.deepspeed import CONFIGS
from fer.vlm.model import load_model, load_processor
from fer.vlm.options import ImageOptions, VlmModelOptions

pytestmark = pytest.mark.slow

STEPS = 2
ROWS = 12


@dataclass
class Outcome:
    """The output of all workers."""

    losses: list[list[float]]
    optimizer_bytes: list[int]
    weights: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


def start_workers(workers: int, model: str, dataset: ShardedDataset, outs: list[Path]) -> list[subprocess.Popen[bytes]]:
    """The processes of a worker group, which takes the steps once for each folder of ``outs``, with its config.json."""
    script = str(Path(__file__).parent / "step_worker.py")
    command = [sys.executable, script, model, dataset.root, str(STEPS), *map(str, outs)]
    group = os.environ | {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            command,
            env=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=(outs[0] / f"log-{rank}").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(workers)
    ]


def read_outcome(out: Path, workers: int) -> Outcome:
    outputs = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(workers)]
    return Outcome(
        [output["losses"] for output in outputs],
        [output["optimizer_bytes"] for output in outputs],
        load_file(out / "weights.safetensors"),
        load_file(out / "gradients.safetensors"),
    )


@pytest.fixture(scope="module")
def outcomes(
    tiny_models: Path, question_shards: ShardedDataset, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Outcome, Outcome, Outcome]]:
    """The steps of one worker and of two, with ZeRO-2, and of two with ZeRO-3."""
    root = tmp_path_factory.mktemp("steps")
    one, two, three = (root / name for name in ("one", "two", "three"))
    for out, stage in ((one, 2), (two, 2), (three, 3)):
        out.mkdir()
        # A larger epsilon: otherwise Adam turns rounding errors into full steps where a gradient is nearly zero.
        config = json.loads((CONFIGS / f"zero{stage}.json").read_text())
        config["optimizer"]["params"]["eps"] = 1e-3
        (out / "config.json").write_text(json.dumps(config))
    model = str(tiny_models / "qwen2.5-vl")
    processes = start_workers(1, model, question_shards, [one])
    processes += start_workers(2, model, question_shards, [two, three])
    try:
        for process in processes:
            assert process.wait(300) == 0, "".join(log.read_text()[-3000:] for log in root.glob("*/log-*"))
        yield read_outcome(one, 1), read_outcome(two, 2), read_outcome(three, 2)
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def one(outcomes: tuple[Outcome, Outcome, Outcome]) -> Outcome:
    return outcomes[0]


def test_two_workers_train_like_one(outcomes: tuple[Outcome, Outcome, Outcome]) -> None:
    """Two workers of two batches a step, or one of four: the same rows give the same weights to 1e-5."""
    one, two, _ = outcomes
    assert one.weights.keys() == two.weights.keys()
    for name, weights in one.weights.items():
        torch.testing.assert_close(two.weights[name], weights, rtol=0, atol=1e-5)
    both = torch.tensor(two.losses).mean(0)
    torch.testing.assert_close(both, torch.tensor(one.losses[0]), rtol=1e-4, atol=0)


def test_the_steps_changed_the_weights(one: Outcome, tiny_models: Path) -> None:
    before = load_model(str(tiny_models / "qwen2.5-vl"), VlmModelOptions(precision="fp32")).state_dict()
    change = max((one.weights[name] - before[name]).abs().max().item() for name in before)
    assert change > 1e-4


def test_zero_2_halves_the_optimizer_state(outcomes: tuple[Outcome, Outcome, Outcome]) -> None:
    one, two, _ = outcomes
    whole = one.optimizer_bytes[0]
    for share in two.optimizer_bytes:
        assert share == pytest.approx(whole / 2, rel=0.001)


def test_zero_3_trains_like_zero_2(outcomes: tuple[Outcome, Outcome, Outcome]) -> None:
    one, _, three = outcomes
    torch.testing.assert_close(torch.tensor(three.losses).mean(0), torch.tensor(one.losses[0]), rtol=1e-4, atol=0)


def test_one_step_equals_transformers_trainer(
    one: Outcome, tiny_models: Path, question_shards: ShardedDataset, tmp_path: Path
) -> None:
    """Loss and gradients of the first step, against transformers' Trainer on the same twelve rows in one batch."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    folder = str(tiny_models / "qwen2.5-vl")
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=56), max_tokens=2048)
    table = pa.concat_tables([pq.read_table(question_shards.path(s)) for s in question_shards.split("train").shards])
    rows = table.slice(0, ROWS).to_pylist()
    gradients: dict[str, torch.Tensor] = {}

    class SaveGradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **others):  # type: ignore[no-untyped-def]
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    trainer = Trainer(
        model=load_model(folder, VlmModelOptions(precision="fp32")),
        args=TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=ROWS,
            max_steps=1,
            use_cpu=True,
            remove_unused_columns=False,
            report_to=[],
            max_grad_norm=100.0,
            save_strategy="no",
        ),
        train_dataset=rows,
        data_collator=lambda part: chat.collate(
            [chat.encode(row_turns(row)) for row in part], [row_image(row, chat) for row in part]
        ),
        callbacks=[SaveGradients()],
    )
    done = trainer.train()
    assert done.training_loss == pytest.approx(one.losses[0][0], rel=1e-4)
    assert one.gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(one.gradients[name], gradient, rtol=1e-3, atol=1e-5)
