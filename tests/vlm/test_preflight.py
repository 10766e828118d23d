"""Checks of supervised fine-tuning before workers start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.errors import UserError
from fer.training.checkpoint import TrainerState, write_state
from fer.vlm.options import SftConfig
from fer.vlm.preflight import preflight_check


def check(tiny_models: Path, shards: ShardedDataset, **options: Any) -> None:
    preflight_check(SftConfig(data="x", image_size=56, **options), str(tiny_models / "qwen2.5-vl"), shards)


def test_a_finished_run_is_not_resumed(tiny_models: Path, question_shards: ShardedDataset, tmp_path: Path) -> None:
    write_state(tmp_path, TrainerState(epoch=1))
    check(tiny_models, question_shards, resume=str(tmp_path))
    write_state(tmp_path, TrainerState(epoch=1, finished=True))
    with pytest.raises(UserError, match=r"this run is finished; .* give it as --model"):
        check(tiny_models, question_shards, resume=str(tmp_path))


def test_with_zero3_each_worker_needs_a_validation_row(tiny_models: Path, question_shards: ShardedDataset) -> None:
    check(tiny_models, question_shards, deepspeed="zero3", workers=4, eval_rows=4, eval_generations=0)
    check(tiny_models, question_shards, deepspeed="zero2", workers=4, eval_rows=3)
    with pytest.raises(UserError, match=r"^3 validation rows for 4 workers"):
        check(tiny_models, question_shards, deepspeed="zero3", workers=4, eval_rows=3)


def test_every_row_needs_a_response(tiny_models: Path, face_folder: Path, tmp_path: Path) -> None:
    images = sorted(face_folder.rglob("*.png"))[:12]
    rows = [
        {"image_path": str(image.relative_to(face_folder)), "problem": "Which?", "response": "<answer>joy</answer>"}
        for image in images
    ]
    del rows[7]["response"]
    rows[7]["solution"] = "joy"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shards = prepare(
        PrepareOptions(
            data=str(tmp_path / "rows.jsonl"), format="vqa", image_root=str(face_folder), out=str(tmp_path / "shards")
        )
    )
    with pytest.raises(UserError, match="has 1 rows without a response"):
        check(tiny_models, shards)


def test_the_largest_image_must_fit(tiny_models: Path, question_shards: ShardedDataset) -> None:
    """28x28 pixels are a token; the faces themselves are small."""
    check(tiny_models, question_shards, max_tokens=512, max_pixels=100 * 28**2)
    with pytest.raises(UserError, match="cuts off the whole response"):
        check(tiny_models, question_shards, max_tokens=512, max_pixels=520 * 28**2)
    with pytest.raises(ValueError, match="--min-pixels needs --max-pixels"):
        SftConfig(data="x", min_pixels=784)


def test_files_of_deepspeed_need_an_optimizer(
    tiny_models: Path, question_shards: ShardedDataset, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(UserError, match='lacks "optimizer"'):
        check(tiny_models, question_shards, deepspeed=str(tmp_path / "mine.json"))
