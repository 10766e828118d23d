"""A tiny model that knows the answer format in part: some completions earn the reward."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fer.data.manifest import ShardedDataset

STEPS, ROWS = 60, 16
LABELS = ["happy", "sad", "angry", "fear"]


@pytest.fixture(scope="session")
def sft_model(tiny_models: Path, question_shards: ShardedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2.5-VL after some steps of supervised fine-tuning on the answer format, in this process."""
    from fer.data.vqa.questions import Turn
    from fer.vlm.chat import IGNORE_INDEX, ChatFormat
    from fer.vlm.data_loader import row_image
    from fer.vlm.loss import token_loss
    from fer.vlm.model import load_model, load_processor
    from fer.vlm.options import ImageOptions, VlmModelOptions

    model = load_model(str(tiny_models / "qwen2.5-vl"), VlmModelOptions(precision="fp32"))
    processor = load_processor(str(tiny_models / "qwen2.5-vl"))
    chat = ChatFormat(processor, ImageOptions(image_size=28), max_tokens=512)
    table = pa.concat_tables([pq.read_table(question_shards.path(s)) for s in question_shards.split("train").shards])
    rows = table.slice(0, ROWS).to_pylist()
    response = "<think>It shows.</think><answer>{}</answer>"
    turns = [[Turn(row["prompt"], response.format(LABELS[i % 4]))] for i, row in enumerate(rows)]
    inputs = chat.collate([chat.encode(each) for each in turns], [row_image(row, chat) for row in rows])
    loss_tokens = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (token_loss(model, inputs) / loss_tokens).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("partly-tuned")
    model.save_pretrained(folder)  # type: ignore[operator]
    processor.save_pretrained(folder)
    return folder
