"""The models that the application `vlm` serves, without an engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fer.errors import UserError
from fer.registry import promote, register
from fer.tracking import TrackingOptions, start_run
from fer.vlm.export import write_model_card
from serve_apps.vlm.models import ServedModels, fetch_models, model_cards, pin_models
from serve_apps.vlm.options import VlmServeConfig


@pytest.fixture
def adapter(merged_model: Path, tmp_path: Path) -> Path:
    """A folder of the adapter that a test may change."""
    return shutil.copytree(merged_model.parent / "adapter", tmp_path / "run/model")


@pytest.fixture
def config(tiny_models: Path, adapter: Path, tmp_path: Path) -> VlmServeConfig:
    return VlmServeConfig(
        model=str(tiny_models / "qwen2.5-vl"), adapters={"chain": str(adapter)}, storage=str(tmp_path / "runs")
    )


def change(adapter: Path, **settings: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_a_model_and_its_adapters(config: VlmServeConfig, adapter: Path) -> None:
    models = fetch_models(pin_models(config))
    assert (models.base, models.adapters) == (config.model, {"chain": str(adapter)})
    assert {"<|image_pad|>", "<|im_start|>"} <= models.control_tokens
    assert not {"<think>", "happy"} & models.control_tokens
    assert models.adapts_vision  # the projector is trained by default
    assert models.lora_rank == 32


@pytest.mark.parametrize(("rank", "reserved"), [(1, 8), (16, 16), (40, 64)])
def test_the_rank_that_is_reserved(adapter: Path, rank: int, reserved: int) -> None:
    change(adapter, r=rank)
    assert ServedModels("", {"chain": str(adapter)}, frozenset()).lora_rank == reserved


def test_an_adapter_as_model_is_merged(config: VlmServeConfig, adapter: Path) -> None:
    models = fetch_models(pin_models(config.model_copy(update={"model": str(adapter), "adapters": {}})))
    assert Path(models.base) == adapter.parent / "merged"


def test_an_alias_means_the_version_that_it_has_now(config: VlmServeConfig, adapter: Path, tmp_path: Path) -> None:
    tracking = TrackingOptions(storage=config.storage)
    write_model_card(adapter, base=config.model, config={}, run={}, metrics={})
    run = start_run(tracking, "tests", "tiny")
    assert register(tracking, run.run_id, adapter, "chain", "champion") == "1"
    pinned = pin_models(config.model_copy(update={"adapters": {"c": "models:/chain@champion"}}))
    register(tracking, run.run_id, adapter, "chain", "challenger")
    promote("chain", "2", "champion", tracking)
    assert pinned.adapters == {"c": "models:/chain/1"}
    assert pinned.tracking_uri is not None
    base, card = model_cards(pinned)
    assert (base.id, base.version, base.parent) == ("qwen2.5-vl", None, None)
    assert (card.id, card.version, card.parent) == ("c", "1", "qwen2.5-vl")
    assert (Path(fetch_models(pinned).adapters["c"]) / "adapter_config.json").is_file()


def test_unusable_models_are_refused(
    config: VlmServeConfig, adapter: Path, tiny_models: Path, make_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    make_classifier(tmp_path / "classifier")
    with pytest.raises(UserError, match="is a classifier"):
        fetch_models(pin_models(config.model_copy(update={"model": str(tmp_path / "classifier")})))
    with pytest.raises(UserError, match="not an adapter"):
        fetch_models(pin_models(config.model_copy(update={"adapters": {"chain": str(tiny_models / "smolvlm")}})))
    change(adapter, use_dora=True)
    with pytest.raises(UserError, match="adapter chain: vLLM has no DoRA"):
        fetch_models(pin_models(config))
    change(adapter, use_dora=False, r=1024)
    with pytest.raises(UserError, match="rank 1024"):
        fetch_models(pin_models(config))
