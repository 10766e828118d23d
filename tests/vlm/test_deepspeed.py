from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer.errors import UserError
from fer.vlm.deepspeed import CONFIGS, load_deepspeed_config

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
    file.write_text('{"gradient_clipping": "auto", "optimizer": {}, "zero_optimization": {"stage": 1}}')
    assert load_deepspeed_config(str(file), **VALUES) == {  # type: ignore[arg-type]
        "gradient_clipping": 5.0,
        "optimizer": {},
        "zero_optimization": {"stage": 1},
    }
    file.write_text('{"optimizer": {}, "zero_optimization": {"reduce_bucket_size": "auto"}}')
    with pytest.raises(UserError, match="not supported for 'reduce_bucket_size'"):
        load_deepspeed_config(str(file), **VALUES)  # type: ignore[arg-type]
    file.write_text('{"zero_optimization": {"stage": 1}}')
    with pytest.raises(UserError, match='lacks "optimizer"'):
        load_deepspeed_config(str(file), **VALUES)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no configuration"):
        load_deepspeed_config(str(tmp_path), **VALUES)  # type: ignore[arg-type]
    file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_deepspeed_config(str(file), **VALUES)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="available: zero2, zero2-offload, zero3"):
        load_deepspeed_config("zero4", **VALUES)  # type: ignore[arg-type]
