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

IGNORE_INDEX = -100
"""Label of a token that carries no loss (torch's cross-entropy skips it)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised conversation. The first prompt is still text: its tokens depend on the image."""

    prompt: str
    """The text up to the first response, with the image's placeholder not expanded yet."""
    tokens: list[int]
    """Everything after it: responses, and the prompts between them."""
    loss_mask: list[bool]
    """Which of ``tokens`` belong to a response of the assistant."""


class ChatFormat:
    """Rows to model inputs, with a model's processor. The methods are thread-safe."""

    def __init__(
        self,
        processor: Any,
        images: ImageOptions,
        *,
        max_tokens: int,
        loss_on: str = "assistant",
        system_prompt: str | None = None,
    ) -> None:
        """``system_prompt``: the system turn of training rows. Prompts for generation have the chat template's own."""
        self.processor, self.images = processor, images
        self.max_tokens, self.loss_on, self.system_prompt = max_tokens, loss_on, system_prompt
        self.tokenizer = processor.tokenizer
        self.pad_token_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    # -- text ----------------------------------------------------------------------------------------------------------

    def render_prompt(self, turns: Sequence[Turn]) -> str:
        """See `render_prompt`."""
        return render_prompt(self.processor, turns)

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """Tokens and loss mask of a conversation; each response's mask includes its end-of-turn token.

        Every prompt and every response is tokenised by itself, as they are in generation.
        """
        messages = chat_messages(turns, self.system_prompt)
        first_response = len(messages) - 2 * len(turns) + 1
        prompt = self._render(messages[:first_response], add_generation_prompt=True)
        tokens: list[int] = []
        loss_mask: list[bool] = []
        text = prompt
        for i in range(first_response, len(messages), 2):
            response = self._added_text(text, self._render(messages[: i + 1]))
            ids = self._tokenize(response)
            end = self._end_of_turn(ids)
            tokens += ids
            loss_mask += [position < end for position in range(len(ids))]
            text += response
            if i + 1 < len(messages):
                next_prompt = self._added_text(text, self._render(messages[: i + 2], add_generation_prompt=True))
                ids = self._tokenize(next_prompt)
                tokens += ids
                loss_mask += [False] * len(ids)
                text += next_prompt
        return Encoded(prompt, tokens, loss_mask)

    def estimate_length(self, encoded: Encoded, image: np.ndarray) -> int:
        """Approximate tokens of a row, to sort by: those of its text, and one for each 28x28 pixels of the image."""
        return len(self._tokenize(encoded.prompt)) + len(encoded.tokens) + image.shape[0] * image.shape[1] // 28**2

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)

    def _added_text(self, before: str, after: str) -> str:
        if not after.startswith(before):
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path} rewrites earlier turns when later ones are added: "
                "the loss of its conversations can't be masked"
            )
        return after[len(before) :]

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _end_of_turn(self, ids: list[int]) -> int:
        """Number of tokens up to and including the end-of-turn token; all, if the template has none."""
        eos = self.tokenizer.eos_token_id
        return ids.index(eos) + 1 if eos in ids else len(ids)

    # -- images --------------------------------------------------------------------------------------------------------

    def decode_image(self, data: bytes) -> np.ndarray:
        """RGB pixels (H, W, 3): a square of ``image_size``, or the image's aspect ratio within the pixel limits."""
        pixels = decode_rgb(data)
        if self.images.fixed_size:
            height = width = self.images.image_size
        else:
            area = pixels.shape[0] * pixels.shape[1]
            target = min(max(area, self.images.min_pixels or 0), self.images.max_pixels or 2**62)
            height, width = (max(1, round(side * (target / area) ** 0.5)) for side in pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

    # -- batches -------------------------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Encoded], images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A training batch, padded on the right: the model's inputs, and ``labels`` (N, T).

        Labels are IGNORE_INDEX where a token carries no loss.
        """
        prompts = self.collate_prompts([row.prompt for row in rows], images)
        ids, mask = prompts["input_ids"], prompts["attention_mask"].bool()
        sequences, labels = [], []
        for i, row in enumerate(rows):
            prompt = ids[i][mask[i]].tolist()
            prompt_mask = [self.loss_on == "all" and token not in self.image_token_ids for token in prompt]
            text_mask = row.loss_mask if self.loss_on == "assistant" else [True] * len(row.tokens)
            sequence = (prompt + row.tokens)[: self.max_tokens]
            loss_mask = (prompt_mask + text_mask)[: self.max_tokens]
            sequences.append(torch.tensor(sequence))
            labels.append(
                torch.tensor([t if has_loss else IGNORE_INDEX for t, has_loss in zip(sequence, loss_mask, strict=True)])
            )
        batch = {
            "input_ids": _pad(sequences, self.pad_token_id),
            "attention_mask": _pad([torch.ones_like(sequence) for sequence in sequences], 0),
            "labels": _pad(labels, IGNORE_INDEX),
        }
        width = batch["input_ids"].shape[1]
        for name, value in prompts.items():
            if name in batch:
                continue
            if value.shape == ids.shape:  # one value per token, such as its type: 0 for the text after the prompt
                value = _pad([value[i][mask[i]][: self.max_tokens] for i in range(len(rows))], 0)
                value = torch.nn.functional.pad(value, (0, width - value.shape[1]))
            batch[name] = value
        return batch

    def collate_prompts(self, prompts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """A batch of prompts for generation, padded on the left."""
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
    def image_token_ids(self) -> set[int]:
        """Tokens that stand for the image; they never carry loss."""
        ids = self.tokenizer.convert_tokens_to_ids
        names = [
            getattr(self.processor, name, None) for name in ("image_token", "fake_image_token", "global_image_token")
        ]
        # Gemma's processor calls the token before the image by that name, its tokenizer those of the image.
        names += [getattr(self.tokenizer, name, None) for name in ("image_token", "boi_token", "eoi_token")]
        return {ids(name) for name in names if name} | {getattr(self.processor, "image_token_id", None) or -1}


def _pad(sequences: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=value)


def chat_messages(turns: Sequence[Turn], system_prompt: str | None = None) -> list[dict[str, Any]]:
    """A conversation in the form of transformers' chat templates, with the image before the first prompt.

    Without a ``system_prompt``, which may be empty, there is no system turn; some templates add their own.
    """
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": [{"type": "text", "text": turn.prompt}]})
        if turn.response is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.response}]})
    messages[0]["content"].insert(0, {"type": "image"})
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    return messages


def render_prompt(renderer: Any, turns: Sequence[Turn]) -> str:
    """The text that a model continues to respond to the last turn; a response that this turn has is left out.

    ``renderer`` is a processor or tokenizer with a chat template.
    """
    messages = chat_messages([*turns[:-1], Turn(turns[-1].prompt)])
    return renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
