from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fer.errors import UserError
from fer.vlm.deepspeed import CONFIGS, full_state_dict, init_engine, load_deepspeed_config, partitioned_loading
from fer.vlm.model import load_model, set_trainable
from fer.vlm.options import LoraOptions, VlmModelOptions
from fer.vlm.scoring import install_head

VALUES = {
    "batch_size": 2,
    "grad_accum_steps": 4,
    "clip_grad": 5.0,
    "bf16": True,
    "lr": 1e-5,
    "weight_decay": 0.01,
}


@pytest.mark.parametrize("name", ["zero2", "zero2-offload", "zero3"])
def test_named_configurations_are_filled_in(name: str) -> None:
    config = load_deepspeed_config(name, **VALUES)  # type: ignore[arg-type]
    assert "auto" not in json.dumps(config)
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4
    assert config["gradient_clipping"] == 5.0
    assert config["bf16"] == {"enabled": True}
    assert config["optimizer"]["params"]["lr"] == 1e-5
    assert config["zero_optimization"]["stage"] == (3 if name == "zero3" else 2)
    assert ("offload_optimizer" in config["zero_optimization"]) == (name == "zero2-offload")


def test_every_configuration_of_the_package_is_known() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == {"zero2", "zero2-offload", "zero3"}


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"gradient_clipping": "auto", "zero_optimization": {"stage": 1}}')
    assert load_deepspeed_config(str(file), **VALUES) == {  # type: ignore[arg-type]
        "gradient_clipping": 5.0,
        "zero_optimization": {"stage": 1},
    }
    file.write_text('{"zero_optimization": {"reduce_bucket_size": "auto"}}')
    with pytest.raises(UserError, match="not supported for 'reduce_bucket_size'"):
        load_deepspeed_config(str(file), **VALUES)  # type: ignore[arg-type]
    file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_deepspeed_config(str(file), **VALUES)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="available: zero2, zero2-offload, zero3"):
        load_deepspeed_config("zero4", **VALUES)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["off", "lora", "dora"])
def test_a_model_that_is_partitioned_while_it_is_loaded_trains_like_a_whole_one(
    tiny_models: Path, process_group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: str
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    options, cpu = VlmModelOptions(precision="fp32", train=["vision", "projector", "language"]), torch.device("cpu")
    ids = torch.randint(300, 500, (2, 16), generator=torch.Generator().manual_seed(0))

    def train(deepspeed: str) -> tuple[list[float], list[int]]:
        config = load_deepspeed_config(deepspeed, lr=1e-2, weight_decay=0.1, bf16=False)
        with partitioned_loading(config, cpu):
            torch.manual_seed(0)
            adapters = LoraOptions(lora=lora, lora_dropout=0.0)  # type: ignore[arg-type]
            model = set_trainable(load_model(str(tiny_models / "qwen2.5-vl"), options), options, adapters)
        assert any(hasattr(weight, "ds_id") for weight in model.parameters()) == (deepspeed == "zero3")
        install_head(model)

        def schedule(optimizer: torch.optim.Optimizer) -> Any:
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

        engine = init_engine(model, config, schedule, cpu)
        losses = []
        for _ in range(3):
            loss = engine(input_ids=ids, labels=ids).loss
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
        groups = engine.optimizer.bit16_groups if deepspeed == "zero2" else engine.optimizer.fp16_groups
        counts = [len(group) for group in groups]
        if lora == "off":
            engine.module.save_pretrained(tmp_path, state_dict=full_state_dict(engine))
            original = load_file(tiny_models / "qwen2.5-vl/model.safetensors")
            assert load_file(tmp_path / "model.safetensors").keys() == original.keys(), "the names of the original"
        engine.destroy()
        return losses, counts

    (whole, groups), (partitioned, partitioned_groups) = train("zero2"), train("zero3")
    assert partitioned == pytest.approx(whole, rel=1e-4)
    assert whole[2] < whole[0]
    assert partitioned_groups == groups, "the same weights decay"
