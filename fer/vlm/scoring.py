"""Log-probabilities of tokens under a model: of those that are needed only, and without all their logits in memory.

With a vocabulary of 150,000, the logits of a pass in float32 take more memory than the rest of it. So the model's last
layer computes them for some tokens at a time, in the forward pass and again in the backward pass, as Liger's kernels do
(Hsu et al., arXiv 2410.10989); those need a GPU, this runs everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from fer.vlm.shared_images import ARCHITECTURES, base_model

LOGITS_AT_ONCE = 2**26
"""Elements of the logits that are in memory: 440 tokens with a vocabulary of 152,000, 268 MB in float32."""


@dataclass(frozen=True)
class Targets:
    """The tokens that are scored."""

    token_ids: Tensor
    """(n) int64"""
    temperature: float
    masked_token_ids: Tensor
    """Tokens that are never sampled: the distribution leaves them out."""


class LanguageHead(nn.Linear):
    """The last layer of a language model. Within `scoring`, it returns scores of tokens instead of logits."""

    targets: Targets | None = None

    @contextmanager
    def scoring(self, targets: Targets) -> Iterator[None]:
        """Within, the layer maps the hidden states (n, width) before n tokens to their scores (n, 2)."""
        self.targets = targets
        try:
            yield
        finally:
            self.targets = None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.targets is None:
            return super().forward(hidden)
        targets = self.targets
        scores = ChunkedScores.apply(
            hidden, self.weight, targets.token_ids, targets.temperature, targets.masked_token_ids
        )
        return torch.stack(scores, -1)


def install_head(model: nn.Module) -> bool:
    """Replace the model's last layer by a `LanguageHead` with the same weight, under the same name.

    Returns whether it was: only known architectures compute nothing after this layer.
    """
    inner = base_model(model)
    if inner.config.model_type not in ARCHITECTURES:
        return False
    linear = inner.get_output_embeddings()
    assert type(linear) is nn.Linear, linear
    assert linear.bias is None, linear
    head = LanguageHead(linear.in_features, linear.out_features, bias=False, device="meta")
    head.weight = linear.weight
    inner.set_output_embeddings(head)
    return True


class ChunkedScores(torch.autograd.Function):
    """Log-probability and entropy (n) of tokens; only the first has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, token_ids: Tensor, temperature: float, masked_token_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, token_ids, masked_token_ids)
        ctx.temperature = temperature
        logprobs, entropies = hidden.new_empty((2, len(hidden)), dtype=torch.float32)
        for part in _chunks(len(hidden), len(weight)):
            logits = hidden[part] @ weight.T
            logprobs[part], entropies[part] = token_logprobs(logits, token_ids[part], temperature, masked_token_ids)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, token_ids, masked_token_ids = ctx.saved_tensors
        hidden_gradient = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for part in _chunks(len(hidden), len(weight)):
            logits = (hidden[part] @ weight.T).float() / ctx.temperature
            # The derivative of a token's log-probability by its logits: 1 for the token, less all probabilities.
            gradient = logits.index_fill_(-1, masked_token_ids, -torch.inf).softmax(-1).neg_()
            gradient[torch.arange(len(gradient), device=gradient.device), token_ids[part]] += 1
            gradient = gradient.mul_(gradients[0][part, None] / ctx.temperature).to(weight.dtype)
            if hidden_gradient is not None:
                hidden_gradient[part] = gradient @ weight
            if weight_gradient is not None:
                weight_gradient.addmm_(gradient.T, hidden[part])
        return hidden_gradient, weight_gradient, None, None, None


def _chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, tokens, size))


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float, masked_token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (n) of sampled ``token_ids`` (n) under ``logits`` (n, vocabulary), both float32.

    ``masked_token_ids`` are never sampled, so the distribution leaves them out.
    """
    scaled = (logits.float() / temperature).index_fill_(-1, masked_token_ids, torch.finfo(torch.float32).min)
    normaliser = scaled.logsumexp(-1)
    logprobs = scaled.gather(-1, token_ids[:, None])[:, 0] - normaliser
    with torch.no_grad():
        entropy = normaliser - scaled.softmax(-1).mul_(scaled).sum(-1)
    return logprobs, entropy


def score_tokens(
    model: Any,
    inputs: Mapping[str, Tensor],
    mask: Tensor,
    *,
    temperature: float = 1.0,
    masked_token_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (n), float32, of the tokens of ``inputs`` that ``mask`` (N, T) selects, row by row.

    No row's first token is selected: there is nothing to predict it from.
    """
    device = mask.device
    masked = torch.empty(0, dtype=torch.long, device=device) if masked_token_ids is None else masked_token_ids
    token_ids = inputs["input_ids"][mask]
    before = nn.functional.pad(mask[:, 1:], (0, 1))
    """Positions whose output predicts these tokens."""
    head = base_model(model).get_output_embeddings()
    if isinstance(head, LanguageHead):
        with head.scoring(Targets(token_ids, temperature, masked)):
            scores = model(**inputs, use_cache=False, logits_to_keep=before).logits
        return scores.unbind(-1)
    arguments: dict[str, Any] = dict(inputs)
    if supports_logits_to_keep(model):
        first = int(before.any(0).nonzero()[0]) if before.any() else before.shape[1] - 1
        before = before[:, first:]
        arguments["logits_to_keep"] = before.shape[1]
    logits = model(**arguments, use_cache=False).logits[before]
    parts = [
        checkpoint(token_logprobs, logits[part], token_ids[part], temperature, masked, use_reentrant=False)
        for part in _chunks(len(logits), logits.shape[-1])
    ]
    logprobs, entropies = zip(*parts, strict=True) if parts else ((logits.sum(-1),), (logits.sum(-1),))
    return torch.cat(logprobs), torch.cat(entropies)


def supports_logits_to_keep(model: Any) -> bool:
    """Whether the model can compute the logits of the last positions only."""
    return "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
