"""Checks before workers start: the driver reports a mistake at once, not a worker minutes later."""

from __future__ import annotations

import fsspec
import pyarrow.parquet as pq

from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.training.checkpoint import check_resume
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import row_image, row_turns
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import load_config, load_processor
from fer.vlm.options import SftConfig


def preflight_check(config: SftConfig, model: str, dataset: ShardedDataset) -> None:
    """Raise UserError for an adapter, a model without a processor, data without responses, or a first row too long."""
    load_deepspeed_config(config.deepspeed)
    load_config(model, config.trust_remote_code)
    rows = dataset.split("train").rows
    if rows < config.workers:
        raise UserError(f"{rows} training rows for {config.workers} workers: lower --workers")
    batches = -(-(rows // config.workers) // config.batch_size)
    if batches < config.grad_accum_steps:
        raise UserError(
            f"{rows} training rows for {config.workers} worker(s) make {batches} batches of {config.batch_size}, less "
            f"than one step of --grad-accum-steps {config.grad_accum_steps}: lower one of the three"
        )
    check_resume(config)
    chat = ChatFormat(
        load_processor(model, config.trust_remote_code),
        config,
        max_tokens=config.max_tokens,
        loss_on=config.loss_on,
        system_prompt=config.system_prompt,
    )
    with fsspec.open(dataset.path(dataset.split("train").shards[0]), "rb") as file:
        row = pq.ParquetFile(file).read_row_group(0).slice(0, 1).to_pylist()[0]
    turns = row_turns(row)
    if any(turn.response is None for turn in turns):
        raise UserError(
            f"{config.data} has questions without responses: use them for `fer grpo` or evaluation, not for SFT"
        )
    batch = chat.collate([chat.encode(turns)], [row_image(row, chat)])
    if (batch["labels"][:, 1:] < 0).all():
        raise UserError(
            f"--max-tokens {config.max_tokens} cuts off the whole response: the image and the prompt already fill it"
        )
