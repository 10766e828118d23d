"""`fer sft` on Ray with DeepSpeed: training, a killed worker, adapters, merging and preflight errors."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.tracking import Run, TrackingOptions
from fer.training.checkpoint import TrainerState
from fer.vlm import sft
from fer.vlm.data_loader import SftBatch
from fer.vlm.options import MergeConfig, SftConfig
from fer.vlm.sft import SftTrainer, train_sft
from jobs import merge as merge_job
from jobs import sft as job
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

COMMON: dict[str, Any] = {
    "train": ["vision", "projector", "language"],
    "workers": 2,
    "batch_size": 4,
    "grad_accum_steps": 2,
    "epochs": 3,
    "lr": 3e-3,
    "image_size": 28,
    "grad_checkpointing": False,
    "bucket_batches": 4,
    "eval_rows": 16,
    "eval_generations": 4,
    "eval_max_new_tokens": 16,
    "log_every": 1,
    "device": "cpu",
}


def fine_tune(data: ShardedDataset, model: Path, out: Path, name: str, **options: Any) -> tuple[Path, Run]:
    """Run the job; return its folder and its MLflow run."""
    config = SftConfig(data=data.root, model=str(model), storage=str(out), name=name, **(COMMON | options))
    job.main(config)
    record = json.loads((out / name / "run.json").read_text())
    return out / name, Run(f"sqlite:///{out / 'mlflow.db'}", record["mlflow_run_id"])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sft")


@pytest.fixture(scope="module")
def undisturbed(question_shards: ShardedDataset, tiny_models: Path, out: Path, ray_cluster: None) -> tuple[Path, Run]:
    return fine_tune(question_shards, tiny_models / "qwen2.5-vl", out, "undisturbed", register_as="tiny", lora="lora")


@pytest.fixture(scope="module")
def full_model(question_shards: ShardedDataset, tiny_models: Path, out: Path, ray_cluster: None) -> tuple[Path, Run]:
    return fine_tune(
        question_shards, tiny_models / "smolvlm", out, "full", workers=1, image_size=112, epochs=2, lora="off",
        save_only_model=True, staging_folder=str(out / "staging"), profile=True,
    )  # fmt: skip


def test_checkpoints_of_weights_alone(
    full_model: tuple[Path, Run],
    question_shards: ShardedDataset,
    tiny_models: Path,
    out: Path,
    step_losses: Callable[[Run], dict[int, float]],
) -> None:
    """They hold a model that loads everywhere. A run resumes from them where the schedule was, its optimizer is new."""
    [checkpoint] = [
        file.parent for file in full_model[0].glob("checkpoint_*/trainer_state.json")
        if not json.loads(file.read_text())["finished"]
    ]  # fmt: skip
    assert (checkpoint / "model/model.safetensors").is_file()
    assert not (checkpoint / "zero").exists()
    assert not list((out / "staging").iterdir()), "what was uploaded is deleted"
    run = fine_tune(
        question_shards, tiny_models / "smolvlm", out, "resumed", workers=1, image_size=112, epochs=2, lora="off",
        resume=str(checkpoint),
    )[1]  # fmt: skip
    before, after = step_losses(full_model[1]), step_losses(run)
    done = len(before) // 2
    assert sorted(after) == list(range(done + 1, len(before) + 1))
    assert after[done + 1] == pytest.approx(before[done + 1], rel=0.02), "the same weights and rows"
    client = MlflowClient(run.uri)
    rates = [client.get_metric_history(each.run_id, "lr") for each in (full_model[1], run)]
    [whole, rest] = [{point.step: point.value for point in rate} for rate in rates]
    assert rest == pytest.approx({step: whole[step] for step in rest})


def test_training_goes_on_while_a_checkpoint_is_uploaded(
    question_shards: ShardedDataset, tiny_models: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload of step 2's checkpoint is held until step 3 is done."""
    step_3_is_done = out / "step-3-is-done"

    def train_with_slow_storage(settings: dict[str, Any]) -> None:
        from ray.train.v2._internal.execution.storage import StorageContext

        upload, train_step = StorageContext.persist_current_checkpoint, SftTrainer.train_step

        def slow_upload(*arguments: Any, **options: Any) -> Any:
            until(step_3_is_done.exists)
            return upload(*arguments, **options)

        def record_step(trainer: SftTrainer, step: list[SftBatch]) -> None:
            train_step(trainer, step)
            if trainer.state.global_step == 3:
                step_3_is_done.touch()

        StorageContext.persist_current_checkpoint, SftTrainer.train_step = slow_upload, record_step  # type: ignore[method-assign]
        train_sft(settings)

    monkeypatch.setattr(sft, "train_sft", train_with_slow_storage)
    fine_tune(
        question_shards, tiny_models / "smolvlm", out, "slow-storage", workers=1, image_size=112, epochs=1, lora="off",
        checkpoint_every=2, save_total_limit=9,
    )  # fmt: skip
    saved = [json.loads(file.read_text()) for file in (out / "slow-storage").glob("checkpoint_*/trainer_state.json")]
    assert 2 in [state["global_step"] for state in saved]


def test_a_profile_of_three_steps_is_an_artifact(full_model: tuple[Path, Run], out: Path) -> None:
    [trace] = out.rglob("trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep")}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"}
    assert any("aten::mm" in str(event.get("name")) for event in events)


def test_the_loss_falls_and_every_step_is_logged(
    undisturbed: tuple[Path, Run], question_shards: ShardedDataset, step_losses: Callable[[Run], dict[int, float]]
) -> None:
    losses = step_losses(undisturbed[1])
    batches = -(-(question_shards.split("train").rows // 2) // 4)
    steps = 3 * -(-batches // 2)
    assert sorted(losses) == list(range(1, steps + 1))
    assert sum(losses[step] for step in range(steps - 3, steps + 1)) < 4 * losses[1]
    history = json.loads((undisturbed[0] / "history.json").read_text())
    assert [entry["step"] for entry in history] == [steps / 3, 2 * steps / 3, steps]
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    assert all(0 <= entry["val_accuracy"] <= 1 and 0 <= entry["val_well_formed"] <= 1 for entry in history)


def test_mlflow_has_throughput_padding_and_samples(undisturbed: tuple[Path, Run]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(undisturbed[1].uri)
    run = client.get_run(undisturbed[1].run_id)
    assert {"train_loss", "lr", "grad_norm", "tokens_per_second", "samples_per_second", "padding", "memory_gb"} <= set(
        run.data.metrics
    )
    assert 0 <= run.data.metrics["padding"] < 0.2
    assert run.data.metrics["lr"] == pytest.approx(0, abs=1e-6)  # a cosine ends at zero
    samples = client.list_artifacts(run.info.run_id, "samples")
    assert len(samples) == 3
    file = Path(client.download_artifacts(run.info.run_id, samples[-1].path))
    assert {"path", "prompt", "label", "response"} == set(json.loads(file.read_text().splitlines()[0]))


@pytest.mark.faults
def test_a_killed_worker_does_not_change_the_result(
    undisturbed: tuple[Path, Run],
    question_shards: ShardedDataset,
    tiny_models: Path,
    out: Path,
    kill_in_mid_epoch: Callable[[Path, list[int]], threading.Thread],
    step_losses: Callable[[Run], dict[int, float]],
) -> None:
    """No row is repeated or skipped: every step has the same loss, and the final weights are bitwise equal."""
    killed: list[int] = []
    watcher = kill_in_mid_epoch(out / "killed", killed)
    options = {"checkpoint_every": 2, "log_every": 5, "max_failures": 1, "lora": "lora"}
    survived = fine_tune(question_shards, tiny_models / "qwen2.5-vl", out, "killed", **options)
    watcher.join()
    assert killed, "the run ended before a worker could be killed"
    assert step_losses(survived[1]) == step_losses(undisturbed[1])
    one, other = (load_file(run / "model/adapter_model.safetensors") for run, _ in (undisturbed, survived))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.faults
def test_a_run_continues_on_another_number_of_workers(
    undisturbed: tuple[Path, Run],
    question_shards: ShardedDataset,
    tiny_models: Path,
    out: Path,
    step_losses: Callable[[Run], dict[int, float]],
) -> None:
    """The third epoch of two workers, on one: the same steps, with losses as before (other rows are in each)."""
    files = list(undisturbed[0].glob("checkpoint_*/trainer_state.json"))
    [checkpoint] = [file.parent for file in files if json.loads(file.read_text())["epoch"] == 2]
    run = fine_tune(
        question_shards, tiny_models / "qwen2.5-vl", out, "fewer", workers=1, grad_accum_steps=4, lora="lora",
        resume=str(checkpoint),
    )[1]  # fmt: skip
    before, after = step_losses(undisturbed[1]), step_losses(run)
    third = sorted(before)[2 * len(before) // 3 :]
    assert sorted(after) == third
    assert sum(after.values()) == pytest.approx(sum(before[step] for step in third), rel=0.05)


def test_only_adapters_are_saved_and_merge_into_a_plain_model(
    undisturbed: tuple[Path, Run], tmp_path: Path, question_shards: ShardedDataset
) -> None:
    from peft import PeftModel

    from fer.vlm.model import load_model
    from fer.vlm.options import VlmModelOptions

    model = undisturbed[0] / "model"
    assert (model / "adapter_model.safetensors").is_file()
    assert not (model / "model.safetensors").exists()
    spec = json.loads((model / "model.json").read_text())
    assert spec["kind"] == "vlm-adapter"
    assert "Out of scope" in (model / "README.md").read_text()

    elsewhere = tmp_path / "elsewhere"  # on a host that has no such folder as the base had in the training
    shutil.copytree(model, elsewhere)
    settings = json.loads((elsewhere / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "base")
    (elsewhere / "adapter_config.json").write_text(json.dumps(settings))
    merge_job.main(MergeConfig(adapter=str(elsewhere), out=str(tmp_path / "merged")))
    fp32 = VlmModelOptions(precision="fp32")
    adapted = PeftModel.from_pretrained(load_model(spec["base"], fp32), str(model))
    merged = load_model(str(tmp_path / "merged"), fp32)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=0.05, atol=0.05)
    with pytest.raises(UserError, match="not empty"):
        merge_job.main(MergeConfig(adapter=str(undisturbed[0]), out=str(tmp_path / "merged")))
    with pytest.raises(UserError, match="is not an adapter"):
        merge_job.main(MergeConfig(adapter=str(tmp_path / "merged"), out=str(tmp_path / "again")))


def test_full_fine_tuning_saves_the_full_model(full_model: tuple[Path, Run], tiny_models: Path) -> None:
    from fer.vlm.model import load_model, load_processor
    from fer.vlm.options import VlmModelOptions

    after = load_model(str(full_model[0] / "model"), VlmModelOptions()).state_dict()
    before = load_model(str(tiny_models / "smolvlm"), VlmModelOptions()).state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert load_processor(str(full_model[0] / "model")).chat_template
    assert json.loads((full_model[0] / "model/model.json").read_text())["kind"] == "vlm"


def test_the_registered_adapter_is_found_by_its_alias(undisturbed: tuple[Path, Run], out: Path) -> None:
    from fer.vlm.model import resolve_vlm

    folder = resolve_vlm("models:/tiny@challenger", TrackingOptions(storage=str(out)))
    assert (Path(folder) / "adapter_config.json").is_file()


def test_a_checkpoint_behind_the_end_of_an_epoch_is_refused() -> None:
    """One of a run with smaller batches: the loop over the steps that are left would never end."""
    trainer: Any = object.__new__(SftTrainer)
    trainer.resume, trainer.step_sizes = "other", [2, 2]
    trainer.config = SftConfig(data="x", batch_size=4, grad_accum_steps=2)
    trainer.state = TrainerState(epoch=1, batch=9, world_size=1)
    trainer.data_loader = SimpleNamespace(step_sizes=lambda consumed: [2, 2], train_batches=lambda *_: iter(()))
    with pytest.raises(UserError, match="--resume other: the checkpoint is behind the end of an epoch of 4 batches"):
        trainer.train_epoch()


@pytest.mark.parametrize(("stage", "rows"), [(2, 10), (3, 8)])
def test_with_zero3_all_workers_validate_on_as_many_rows(stage: int, rows: int) -> None:
    trainer: Any = object.__new__(SftTrainer)
    trainer.engine = SimpleNamespace(zero_optimization_stage=lambda: stage)
    trainer.worker = SimpleNamespace(world_size=4)
    trainer.dataset = SimpleNamespace(split=lambda name: SimpleNamespace(rows=10))
    assert (trainer.val_rows(512), trainer.val_rows(5)) == (rows, 4 if stage == 3 else 5)


def test_mistakes_are_reported_before_workers_start(
    undisturbed: tuple[Path, Run],
    question_shards: ShardedDataset,
    tiny_models: Path,
    out: Path,
    tmp_path: Path,
    face_folder: Path,
) -> None:
    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare

    def fails(match: str, data: ShardedDataset = question_shards, **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            fine_tune(data, tiny_models / "qwen2.5-vl", out, "invalid", **options)

    fails("cuts off the whole response", max_tokens=64, image_size=224)
    fails("less than one step", grad_accum_steps=100)
    fails("no configuration 'zero9'", deepspeed="zero9")
    fails("is not a checkpoint", resume=str(tmp_path))
    rows = [{"image_path": f"{p.relative_to(face_folder)}", "problem": "?", "solution": "joy"} for p in
            sorted(face_folder.rglob("*.png"))]  # fmt: skip
    (tmp_path / "grpo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    without_responses = prepare(
        PrepareOptions(
            data=str(tmp_path / "grpo.jsonl"), format="vqa", image_root=str(face_folder), out=str(tmp_path / "shards")
        )
    )
    fails("rows without a response", data=without_responses)
    assert not (out / "invalid").exists()
