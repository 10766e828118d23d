"""What must hold before workers start: a mistake is told by the driver at once, not by a worker minutes later."""

from __future__ import annotations

import fsspec
import pyarrow.parquet as pq

from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.training.checkpoint import check_resume
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import row_image, row_turns
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import load_processor
from fer.vlm.options import SftConfig


def check(config: SftConfig, model: str, dataset: ShardedDataset) -> None:
    """Raise UserError for a model without a processor, data without responses, or a first row that does not fit."""
    load_deepspeed_config(
        config.deepspeed, batch_size=1, grad_accum_steps=1, clip_grad=1, bf16=True, lr=config.lr, weight_decay=0
    )
    rows = dataset.split("train").rows
    if rows < config.workers:
        raise UserError(f"{rows} training rows for {config.workers} workers: use fewer --workers")
    steps = -(-(rows // config.workers) // config.batch_size)
    if steps < config.grad_accum_steps:
        raise UserError(
            f"{rows} training rows for {config.workers} worker(s) make {steps} batches of {config.batch_size}, less "
            f"than one step of --grad-accum-steps {config.grad_accum_steps}: lower one of the three"
        )
    check_resume(config)
    chat = ChatFormat(
        load_processor(model, config.trust_remote_code), config, max_tokens=config.max_tokens, loss_on=config.loss_on
    )
    with fsspec.open(dataset.path(dataset.split("train").shards[0]), "rb") as file:
        row = pq.ParquetFile(file).read_row_group(0).slice(0, 1).to_pylist()[0]
    turns = row_turns(row)
    if any(turn.response is None for turn in turns):
        raise UserError(f"{config.data} has questions without responses: they serve `fer grpo` and evaluation, not SFT")
    batch = chat.collate([chat.encode(turns)], [row_image(row, chat)])
    if (batch["labels"][:, 1:] < 0).all():
        raise UserError(f"--max-tokens {config.max_tokens} cuts off the answers: image and question fill it already")
