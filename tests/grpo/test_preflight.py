"""Checks before a run starts, and the summary that `--dry-run` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.grpo import preflight
from fer.grpo.evaluation import evaluation_questions
from fer.grpo.options import GrpoConfig
from fer.grpo.preflight import dry_run_summary, estimate_memory, preflight_check, visual_token_ids
from fer.options import parse
from fer.vlm.chat import ChatFormat
from fer.vlm.model import load_processor
from jobs.__main__ import run_job
from jobs.commands import RECIPES


def config(**options: Any) -> GrpoConfig:
    return GrpoConfig(data="x", image_size=56, **options)


def test_the_longest_prompt_includes_its_image(tiny_model: str, question_shards: ShardedDataset) -> None:
    small = preflight_check(config(), tiny_model, question_shards)
    assert 50 < small < 200
    if "qwen" in tiny_model:
        large = preflight_check(GrpoConfig(data="x", image_size=112), tiny_model, question_shards)
        assert large == small + 12, "16 tokens in place of 4"


def test_equal_prompts_are_rendered_once_and_of_many_only_the_longest(
    tiny_models: Path,
    question_shards: ShardedDataset,
    face_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered: list[str] = []
    render = ChatFormat.render_prompt

    def record(chat: ChatFormat, turns: Sequence[Turn]) -> str:
        rendered.append(turns[-1].prompt)
        return render(chat, turns)

    monkeypatch.setattr(ChatFormat, "render_prompt", record)
    folder = str(tiny_models / "qwen2.5-vl")
    preflight_check(config(), folder, question_shards)
    assert len(rendered) == 2, "one question about all faces, and the one that measures the image"

    images = sorted(face_folder.rglob("*.png"))[:30]
    rows = [
        {
            "image_path": str(image.relative_to(face_folder)),
            "problem": " ".join(["Which?"] * number),
            "solution": "happy",
        }
        for number, image in enumerate(images, 1)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "shards")
    shards = prepare(PrepareOptions(data=data, format="vqa", image_root=str(face_folder), out=out, val_split=0))
    longest = preflight_check(config(), folder, shards)
    rendered.clear()
    monkeypatch.setattr(preflight, "MAX_RENDERED", 3)
    assert preflight_check(config(), folder, shards) == longest
    assert [len(text.split()) for text in rendered] == [30, 29, 28, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_prompt_tokens": 20}, "raise --max-prompt-tokens"),
        ({"prompts_per_step": 500}, "do not fill a batch"),
        ({"rewards": {"nowhere:speed": 1.0}}, "cannot be imported"),
        ({"deepspeed": "zero9"}, "zero9"),
        ({"resume": "/nowhere"}, "is not a checkpoint"),
    ],
)
def test_mistakes_are_reported_before_training(
    tiny_models: Path, question_shards: ShardedDataset, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        preflight_check(config(**options), str(tiny_models / "qwen2.5-vl"), question_shards)


def test_rows_without_an_answer_are_refused(tiny_models: Path, face_folder: Path, tmp_path: Path) -> None:
    images = sorted(face_folder.rglob("*.png"))[:12]
    rows = [{"image_path": str(image.relative_to(face_folder)), "problem": "Which?"} for image in images]
    rows[0]["solution"] = "<answer>happy</answer>"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = str(tmp_path / "rows.jsonl")
    shards = prepare(
        PrepareOptions(data=data, format="vqa", image_root=str(face_folder), out=str(tmp_path / "shards"), val_split=0)
    )
    with pytest.raises(UserError, match="11 rows without an answer"):
        preflight_check(config(), str(tiny_models / "qwen2.5-vl"), shards)


def test_heads_are_split_evenly(tiny_models: Path, question_shards: ShardedDataset) -> None:
    with pytest.raises(UserError, match=r"--tensor-parallel 3: .* has 2 attention heads, .* use one of 1, 2$"):
        preflight_check(config(tensor_parallel=3), str(tiny_models / "qwen2.5-vl"), question_shards)


def test_heads_of_all_parts_are_split_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Qwen2.5-VL-7B: 28 of queries, 4 of keys, 16 in the image encoder."""
    shape = SimpleNamespace(num_attention_heads=28, num_key_value_heads=4)
    settings = SimpleNamespace(get_text_config=lambda: shape, vision_config=SimpleNamespace(num_heads=16))
    monkeypatch.setattr(preflight, "load_config", lambda *_: settings)
    for ranks in (1, 2, 4):
        preflight._check_tensor_parallel(config(tensor_parallel=ranks), "7B")
    for ranks in (7, 8, 14, 28):
        with pytest.raises(UserError, match=r"use one of 1, 2, 4$"):
            preflight._check_tensor_parallel(config(tensor_parallel=ranks), "7B")


def test_visual_tokens_are_the_placeholders_of_images(tiny_model: str) -> None:
    tokenizer = load_processor(tiny_model).tokenizer
    tokens = tokenizer.convert_ids_to_tokens(visual_token_ids(config(), tiny_model))
    expected = {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    assert set(tokens) >= (expected if "qwen" in tiny_model else {"<image>", "<fake_token_around_image>"})
    assert tokenizer.eos_token not in tokens


def test_summary_of_unifer_s_recipe(tiny_models: Path, question_shards: ShardedDataset) -> None:
    recipe = parse(GrpoConfig, ["--config", "unifer-grpo-7b", "--data", "x"], "grpo", RECIPES / "grpo")
    assert (recipe.workers, recipe.engines, recipe.prompts_per_worker, recipe.batch_size) == (7, 1, 4, 8)
    summary = dry_run_summary(recipe, str(tiny_models / "qwen2.5-vl"), question_shards, longest_prompt=700)
    assert "28 prompts x 8 completions = 224 completions per step" in summary
    assert "4 x 8 of them per trainer, in 4 pass(es) of 8" in summary
    assert "7 trainer(s) with 4 CPU and 1 GPU each, zero3" in summary
    assert "1 vLLM engine(s) with 4 CPU and 1 GPU each" in summary
    split = recipe.model_copy(update={"tensor_parallel": 4})
    summary = dry_run_summary(split, str(tiny_models / "qwen2.5-vl"), question_shards, longest_prompt=700)
    assert "1 vLLM engine(s) with 4 CPU and 4 GPUs each" in summary


def test_memory_estimate_follows_trainable_weights_and_sharding(tiny_models: Path) -> None:
    folder = str(tiny_models / "qwen2.5-vl")
    one, two = (estimate_memory(config(workers=n), folder, longest_prompt=100) for n in (1, 2))
    assert two["trainer: optimizer"] == one["trainer: optimizer"] / 2
    assert two["trainer: weights"] == one["trainer: weights"]
    split = estimate_memory(config(tensor_parallel=2), folder, longest_prompt=100)
    assert split["engine: weights"] == one["engine: weights"] / 2
    merging = estimate_memory(config(tensor_parallel=2, lora="lora"), folder, longest_prompt=100)
    assert merging["engine: base weights on the host"] == 2 * one["engine: weights"]
    sharded = estimate_memory(config(workers=2, deepspeed="zero3"), folder, longest_prompt=100)
    assert sharded["trainer: weights"] == one["trainer: weights"] / 2
    assert estimate_memory(config(beta=0.0), folder, longest_prompt=100)["trainer: reference model"] == 0
    adapters = estimate_memory(config(lora="lora"), folder, longest_prompt=100)
    assert adapters["trainer: reference model"] == 0
    assert adapters["trainer: optimizer"] < one["trainer: optimizer"] / 2


def test_memory_estimate_has_two_buckets_of_a_weight_sync(tiny_models: Path) -> None:
    folder = str(tiny_models / "qwen2.5-vl")

    def estimate(**options: Any) -> dict[str, float]:
        return estimate_memory(config(**options), folder, longest_prompt=100)

    whole = estimate()  # both buckets together hold no more than the model
    assert whole["trainer: sync buckets"] == whole["engine: sync buckets"] == whole["engine: weights"]
    smaller = estimate(sync_bucket_mb=1)
    saved = whole["trainer: sync buckets"] - smaller["trainer: sync buckets"]
    assert whole["trainer: total"] - smaller["trainer: total"] == saved
    assert estimate(lora="lora")["trainer: sync buckets"] == 0


def test_a_dry_run_starts_nothing(
    tiny_models: Path, question_shards: ShardedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", question_shards.root, "--model", str(tiny_models / "qwen2.5-vl"), "--dry-run"]
    assert run_job("grpo", [*arguments, "--storage", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(heading in out for heading in ("Placement", "Batches", "Estimated memory", "trainer: total"))
    assert not list(tmp_path.iterdir())


def test_evaluation_takes_validation_rows_or_other_questions(
    tiny_models: Path, question_shards: ShardedDataset, questions_file: Path, face_folder: Path, tmp_path: Path
) -> None:
    folder = str(tiny_models / "qwen2.5-vl")
    assert evaluation_questions(config(), folder, question_shards) is None
    assert evaluation_questions(config(eval_steps=5), folder, question_shards) == (question_shards.root, "val")
    other = config(eval_steps=5, eval_data=str(questions_file), eval_image_root=str(face_folder), storage=str(tmp_path))
    root, split = evaluation_questions(other, folder, question_shards) or ("", "")
    assert split == "train"
    assert ShardedDataset(root).split(split).rows == 112, "all of the file"
    without_validation = ShardedDataset(root)
    with pytest.raises(UserError, match="no validation rows"):
        evaluation_questions(config(eval_steps=5), folder, without_validation)
    with pytest.raises(UserError, match="raise --max-prompt-tokens"):
        evaluation_questions(config(eval_steps=5, max_prompt_tokens=20), folder, question_shards)
