"""The chat format: a row as messages, as tokens, and which of the tokens carry loss.

Everything model-specific comes from the model's processor (its chat template, its image placeholders, its image
preprocessing), so any image-text model whose processor has a chat template trains without code of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fer.data.images import decode_rgb
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.vlm.options import ImageOptions

IGNORED = -100
"""Label of a token that carries no loss (torch's cross-entropy skips it)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation: text tokens after the first prompt, whose tokens depend on the image and come later."""

    prompt: str
    """The text up to the first answer, with the image's placeholder not expanded yet."""
    tokens: list[int]
    """Everything after it: answers, and the questions between them."""
    learned: list[bool]
    """Which of ``tokens`` the assistant must say."""


class ChatFormat:
    """Rows to model inputs, by the processor of a model. Its methods may be called from several threads."""

    def __init__(self, processor: Any, images: ImageOptions, *, max_tokens: int, loss_on: str = "assistant") -> None:
        self.processor, self.images = processor, images
        self.max_tokens, self.loss_on = max_tokens, loss_on
        self.tokenizer = processor.tokenizer
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    # -- text ----------------------------------------------------------------------------------------------------------

    def messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        """The conversation in the form of transformers' chat templates, the image before the first question."""
        messages: list[dict[str, Any]] = []
        for i, turn in enumerate(turns):
            image = [{"type": "image"}] if i == 0 else []
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": turn.prompt}]})
            if turn.response is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.response}]})
        return messages

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text that a model continues to answer the last turn."""
        return self._render(self.messages([*turns[:-1], Turn(turns[-1].prompt)]), ask=True)

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """Tokens of a conversation, and which of them the assistant must say: its words and the token that ends them.

        Each stretch is tokenised by itself, as it is when a model answers: the prompt first, then what it says.
        """
        messages = self.messages(turns)
        first = self._render(messages[:1], ask=True)
        tokens: list[int] = []
        learned: list[bool] = []
        written = first
        for answer in range(1, len(messages), 2):
            said = self._continue(written, self._render(messages[: answer + 1]))
            ids = self._tokenize(said)
            end = self._end(ids)
            tokens += ids
            learned += [i < end for i in range(len(ids))]
            written += said
            if answer + 1 < len(messages):
                asked = self._continue(written, self._render(messages[: answer + 2], ask=True))
                tokens += (ids := self._tokenize(asked))
                learned += [False] * len(ids)
                written += asked
        return Encoded(first, tokens, learned)

    def length(self, encoded: Encoded, image: np.ndarray) -> int:
        """About how many tokens a row has, to sort by: its text's, and one for each 28x28 pixels."""
        return len(self._tokenize(encoded.prompt)) + len(encoded.tokens) + image.shape[0] * image.shape[1] // 28**2

    def _render(self, messages: list[dict[str, Any]], ask: bool = False) -> str:
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)

    def _continue(self, before: str, whole: str) -> str:
        if not whole.startswith(before):
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path} rewrites earlier turns when later ones are added: "
                "its conversations can't be marked for loss"
            )
        return whole[len(before) :]

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _end(self, ids: list[int]) -> int:
        """Tokens up to the end-of-turn token and with it; all, where the template has none."""
        eos = self.tokenizer.eos_token_id
        return ids.index(eos) + 1 if eos in ids else len(ids)

    # -- images --------------------------------------------------------------------------------------------------------

    def decode(self, data: bytes) -> np.ndarray:
        """RGB pixels (H, W, 3): a square of ``image_size``, or the image's shape within the limits of its pixels."""
        pixels = decode_rgb(data)
        if self.images.fixed_size:
            height = width = self.images.image_size
        else:
            area = pixels.shape[0] * pixels.shape[1]
            wanted = min(max(area, self.images.min_pixels or 0), self.images.max_pixels or 2**62)
            height, width = (max(1, round(side * (wanted / area) ** 0.5)) for side in pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

    # -- batches -------------------------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Encoded], images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Rows of one batch, padded on the right: the model's inputs, and ``labels`` (N, T) with IGNORED elsewhere."""
        prompts = self._process([row.prompt for row in rows], images)
        ids, mask = prompts["input_ids"], prompts["attention_mask"].bool()
        sequences, labels = [], []
        for i, row in enumerate(rows):
            prompt = ids[i][mask[i]].tolist()
            text = [self.loss_on == "all" and token not in self.placeholders for token in prompt]
            said = row.learned if self.loss_on == "assistant" else [True] * len(row.tokens)
            whole = (prompt + row.tokens)[: self.max_tokens]
            learned = (text + said)[: self.max_tokens]
            sequences.append(torch.tensor(whole))
            labels.append(torch.tensor([t if keep else IGNORED for t, keep in zip(whole, learned, strict=True)]))
        batch = {
            "input_ids": _pad(sequences, self.pad),
            "attention_mask": _pad([torch.ones_like(sequence) for sequence in sequences], 0),
            "labels": _pad(labels, IGNORED),
        }
        width = batch["input_ids"].shape[1]
        for name, value in prompts.items():
            if name in batch:
                continue
            if value.shape == ids.shape:  # one value a token, such as its type: 0 for the text that follows
                rows_of = [value[i][mask[i]][: self.max_tokens] for i in range(len(rows))]
                value = _pad(rows_of, 0)
                value = torch.nn.functional.pad(value, (0, width - value.shape[1]))
            batch[name] = value
        return batch

    def questions(self, prompts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Prompts of one batch, padded on the left, for generation."""
        return self._process(prompts, images)

    def _process(self, prompts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        return dict(
            self.processor(
                text=list(prompts),
                images=[[Image.fromarray(image)] for image in images],
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
        )

    @property
    def placeholders(self) -> set[int]:
        """Tokens that stand for the image, and can't be learned."""
        ids = self.tokenizer.convert_tokens_to_ids
        names = [
            getattr(self.processor, name, None) for name in ("image_token", "fake_image_token", "global_image_token")
        ]
        return {ids(name) for name in names if name} | {getattr(self.processor, "image_token_id", None) or -1}


def _pad(sequences: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=value)


def chat_prompt(renderer: Any, prompt: str, before: Sequence[tuple[str, str]] = ()) -> str:
    """The text of a question about an image, by a processor's or tokenizer's chat template.

    ``before`` are earlier turns about the same image: what was asked, and what was answered.
    """
    messages: list[dict[str, Any]] = []
    for asked, answered in before:
        messages.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answered}]})
    messages.append({"role": "user", "content": [{"type": "text", "text": prompt}]})
    messages[0]["content"].insert(0, {"type": "image"})
    return renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
