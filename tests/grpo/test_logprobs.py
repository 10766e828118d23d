"""Log-probabilities of tokens under logits: masked tokens and temperature."""

from __future__ import annotations

import math

import pytest
import torch

from fer.grpo.logprobs import token_logprobs


def test_masked_tokens_are_left_out_of_the_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 1]), 1.0, torch.tensor([2]))
    assert logprobs[0].item() == pytest.approx(1 - math.log(math.exp(1) + math.exp(2)))
    assert logprobs[1].item() == pytest.approx(-math.log(2))
    assert entropy[1].item() == pytest.approx(math.log(2))


def test_temperature_divides_logits() -> None:
    logits, token_ids, none = torch.randn(4, 9), torch.tensor([1, 2, 3, 4]), torch.empty(0, dtype=torch.long)
    half, _ = token_logprobs(logits, token_ids, 0.5, none)
    doubled, _ = token_logprobs(logits * 2, token_ids, 1.0, none)
    torch.testing.assert_close(half, doubled)
