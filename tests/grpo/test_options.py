"""Options of `fer grpo`: defaults of each loss, and batch sizes that do not divide."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fer.grpo.options import GrpoConfig


def test_a_loss_sets_the_options_that_are_not_given() -> None:
    assert GrpoConfig(data="x").beta == 0.04
    dapo = GrpoConfig(data="x", loss="dapo")
    assert (dapo.clip_ratio_low, dapo.clip_ratio_high, dapo.beta, dapo.dynamic_sampling_batches) == (0.2, 0.28, 0.0, 3)
    assert GrpoConfig(data="x", loss="dapo", clip_ratio_high=0.5).clip_ratio_high == 0.5
    assert GrpoConfig.model_validate(dapo.model_dump()) == dapo


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts_per_step": 30, "workers": 7}, "use 28 or 35"),
        ({"prompts_per_step": 3, "workers": 7}, "use 7 "),
        ({"prompts_per_step": 28, "workers": 7, "batch_size": 5}, "use one of 1, 2, 4, 8, 16, 32"),
        ({"min_pixels": 3136}, "--max-pixels"),
        ({"overlong_buffer": 1024}, "--overlong-buffer"),
        ({"colocate": True, "workers": 2, "engines": 1}, "make them equal"),
        ({"colocate": True, "async_level": 1}, "--async-level 0"),
        ({"colocate": True, "tensor_parallel": 2}, "--tensor-parallel 1"),
        ({"partial_rollouts": True}, "use 1 or more"),
        ({"engine_adapters": "separate"}, "--lora lora"),
        ({"engine_adapters": "separate", "lora": "dora"}, "not DoRA"),
        ({"engine_timeout": 1000}, "above half of --process-group-timeout 1800"),
        ({"engine_timeout": 100}, "--sync-timeout 300 is above --engine-timeout 100"),
    ],
)
def test_an_error_names_values_that_would_work(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GrpoConfig(data="x", **options)  # type: ignore[arg-type]


def test_an_engine_reserves_the_gpus_that_its_weights_are_split_over() -> None:
    config = GrpoConfig(data="x", device="gpu", engines=2, tensor_parallel=4)
    assert (config.engine_bundle.number, config.engine_bundle.resources) == (2, {"CPU": 1, "GPU": 4})


def test_a_trainer_and_an_engine_share_a_gpu_and_two_engines_do_not() -> None:
    config = GrpoConfig(data="x", device="gpu", workers=4, engines=4, colocate=True)
    trainer, engine = config.worker_bundle.resources["GPU"], config.engine_bundle.resources["GPU"]
    assert trainer + engine == 1
    assert 2 * engine > 1
    alone = GrpoConfig(data="x", device="gpu", workers=4, engines=4)
    assert alone.worker_bundle.resources["GPU"] == alone.engine_bundle.resources["GPU"] == 1
