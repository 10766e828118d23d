"""A few optimizer steps on fixed rows: a worker of tests/vlm/test_steps.py, which sets the variables of its group.

Arguments: model folder, shards, number of steps, and output folders; the steps are taken once for each of them, with
the DeepSpeed configuration in its ``config.json``. A step has the same four batches for any number of workers, which
divide them among themselves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from fer.data.manifest import ShardedDataset
from fer.tracking import Run
from fer.training.worker import Worker
from fer.vlm.data_loader import SftBatch, row_image, row_turns
from fer.vlm.options import SftConfig
from fer.vlm.sft import SftTrainer

BATCHES, BATCH = 4, 3


def main(model: str, shards: str, steps: str, *outs: str) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for out in outs:
        take_steps(model, shards, int(steps), Path(out))
    dist.destroy_process_group()


def take_steps(model: str, shards: str, steps: int, out: Path) -> None:
    rank, workers = dist.get_rank(), dist.get_world_size()
    config = SftConfig(
        data=shards,
        precision="fp32",
        train=["vision", "projector", "language"],
        image_size=56,
        batch_size=BATCH,
        grad_accum_steps=BATCHES // workers,
        lr=1e-3,
        warmup=0,
        scheduler="constant_with_warmup",
        clip_grad=100.0,
        deepspeed=str(out / "config.json"),
        grad_checkpointing=False,
        bucket_batches=1,
    )
    dataset = ShardedDataset(shards)
    worker = Worker(rank, workers, torch.device("cpu"), report_fn=lambda *_: None)  # not a process of Ray Train
    trainer = SftTrainer(config, model, dataset, worker, Run("", ""), resume=None)
    table = pa.concat_tables([pq.read_table(dataset.path(shard)) for shard in dataset.split("train").shards])
    gradients: dict[str, torch.Tensor] = {}
    step_of = trainer.engine.step

    def step() -> None:
        if not gradients and trainer.engine.is_gradient_accumulation_boundary():
            from deepspeed.utils import safe_get_full_grad

            for name, parameter in trainer.engine.module.named_parameters():
                gradient = safe_get_full_grad(parameter)
                if gradient is not None:
                    gradients[name] = gradient.clone()
        step_of()

    trainer.engine.step = step
    for number in range(steps):
        rows = table.slice(number * BATCHES * BATCH, BATCHES * BATCH).to_pylist()
        mine = range(rank, BATCHES, workers)
        batches = []
        for i in mine:
            part = rows[i * BATCH : (i + 1) * BATCH]
            encoded = [trainer.chat.encode(row_turns(row)) for row in part]
            images = [row_image(row, trainer.chat) for row in part]
            batches.append(SftBatch.from_inputs(trainer.chat.collate(encoded, images)))
        trainer.train_step(batches)
    optimizer = trainer.engine.optimizer.optimizer
    states = [value for state in optimizer.state.values() for value in state.values() if value.numel() > 1]
    output = {"losses": trainer.log.losses, "optimizer_bytes": sum(value.nbytes for value in states)}
    (out / f"rank-{rank}.json").write_text(json.dumps(output))
    if rank == 0:
        weights = {name: value.contiguous().clone() for name, value in trainer.engine.module.state_dict().items()}
        save_file(weights, out / "weights.safetensors")
        save_file({name: value.contiguous() for name, value in gradients.items()}, out / "gradients.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
