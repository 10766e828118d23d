"""Checks before workers start: the driver reports a mistake at once, not a worker minutes later."""

from __future__ import annotations

import fsspec
import numpy as np
import pyarrow.parquet as pq

from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.training.checkpoint import check_unfinished
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import row_image, row_turns, text_rows
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import load_config, load_processor
from fer.vlm.options import SftConfig


def preflight_check(config: SftConfig, model: str, dataset: ShardedDataset) -> None:
    """Raise UserError for an adapter, a model without a processor, rows without responses, a first row too long, or a
    run that can't be resumed or divided among its workers."""
    zero = load_deepspeed_config(config.deepspeed)["zero_optimization"]
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
    if zero.get("stage") == 3 and "val" in dataset.manifest.splits:
        least = min(dataset.split("val").rows, *filter(None, (config.eval_rows, config.eval_generations)))
        if least < config.workers:
            raise UserError(
                f"{least} validation rows for {config.workers} workers, each of which needs one with ZeRO-3: lower "
                "--workers, or raise --eval-rows, --eval-generations or --val-split (0: no validation)"
            )
    check_unfinished(config)
    chat = ChatFormat(
        load_processor(model, config.trust_remote_code),
        config,
        max_tokens=config.max_tokens,
        loss_on=config.loss_on,
        system_prompt=config.system_prompt,
    )
    without = sum(
        any(turn.response is None for turn in row_turns(row))
        for split in dataset.manifest.splits
        for row in text_rows(dataset, split)
    )
    if without:
        raise UserError(
            f"{config.data} has {without} rows without a response: use them for `fer grpo` or evaluation, not for SFT"
        )
    with fsspec.open(dataset.path(dataset.split("train").shards[0]), "rb") as file:
        row = pq.ParquetFile(file).read_row_group(0).slice(0, 1).to_pylist()[0]
    image = row_image(row, chat)
    if config.max_pixels:  # the largest that there can be
        side = int(config.max_pixels**0.5)
        image = np.zeros((side, side, 3), np.uint8)
    batch = chat.collate([chat.encode(row_turns(row))], [image])
    if (batch["labels"][:, 1:] < 0).all():
        raise UserError(
            f"--max-tokens {config.max_tokens} cuts off the whole response: the image and the prompt already fill it"
        )
