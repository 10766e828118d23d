"""Options of `fer grpo`: what a kind of loss sets, and batch sizes that do not divide."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fer.grpo.options import GrpoConfig


def test_a_kind_of_loss_sets_what_is_not_given() -> None:
    assert GrpoConfig(data="x").beta == 0.04
    dapo = GrpoConfig(data="x", loss="dapo")
    assert (dapo.clip_low, dapo.clip_high, dapo.beta, dapo.extra_rounds) == (0.2, 0.28, 0.0, 3)
    assert GrpoConfig(data="x", loss="dapo", clip_high=0.5).clip_high == 0.5
    assert GrpoConfig.model_validate(dapo.model_dump()) == dapo


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts": 30, "workers": 7}, "use 28 or 35"),
        ({"prompts": 3, "workers": 7}, "use 7 "),
        ({"prompts": 28, "workers": 7, "batch_size": 5}, "use one of 1, 2, 4, 8, 16, 32"),
        ({"min_pixels": 3136}, "--max-pixels"),
        ({"overlong_buffer": 1024}, "--overlong-buffer"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GrpoConfig(data="x", **options)  # type: ignore[arg-type]
