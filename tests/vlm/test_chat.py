"""Tokens and loss masks of conversations, for two architectures."""

from __future__ import annotations

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.data.vqa.questions import Turn
from fer.vlm.chat import IGNORE_INDEX, ChatFormat, chat_messages
from fer.vlm.model import load_processor
from fer.vlm.options import ImageOptions

ONE = [Turn("Which expression?", "<think>wide eyes</think><answer>fear</answer>")]
TWO = [Turn("The strongest?", "surprise"), Turn("The next strongest?", "happiness")]
IMAGE = np.zeros((112, 112, 3), np.uint8)


@pytest.fixture
def chat(tiny_model: str) -> ChatFormat:
    return ChatFormat(load_processor(tiny_model), ImageOptions(image_size=112), max_tokens=512)


def loss_text(chat: ChatFormat, batch: dict, row: int) -> list[str]:  # type: ignore[type-arg]
    """The spans of text that carry loss."""
    labels = batch["labels"][row].tolist()
    spans, current = [], []
    for token in [*labels, IGNORE_INDEX]:
        if token == IGNORE_INDEX:
            if current:
                spans.append(chat.tokenizer.decode(current))
            current = []
        else:
            current.append(token)
    return spans


def test_only_the_response_and_its_end_of_turn_token_carry_loss(chat: ChatFormat) -> None:
    batch = chat.collate([chat.encode(ONE)], [IMAGE])
    [text] = loss_text(chat, batch, 0)
    assert text.strip() == ONE[0].response + chat.tokenizer.eos_token
    inputs = batch["input_ids"][0]
    has_loss = batch["labels"][0] != IGNORE_INDEX
    assert (batch["labels"][0][has_loss] == inputs[has_loss]).all()


def test_only_the_assistant_s_turns_carry_loss(chat: ChatFormat) -> None:
    batch = chat.collate([chat.encode(TWO)], [IMAGE])
    end = chat.tokenizer.eos_token
    assert [text.strip() for text in loss_text(chat, batch, 0)] == [f"surprise{end}", f"happiness{end}"]


def test_a_system_turn_of_training_rows_may_be_empty(tiny_model: str) -> None:
    """It comes first, in training rows alone, and carries loss like the rest of the text if all of it does."""
    options = ImageOptions(image_size=112)
    chat = ChatFormat(load_processor(tiny_model), options, max_tokens=512, loss_on="all", system_prompt="")
    without = ChatFormat(load_processor(tiny_model), options, max_tokens=512)
    batch = chat.collate([chat.encode(TWO)], [IMAGE])
    text = chat.processor.apply_chat_template(chat_messages(TWO, ""), tokenize=False)
    assert "system" in text.lower()
    whole = chat.processor(text=[text], images=[[IMAGE]], return_tensors="pt")["input_ids"][0]
    assert chat.tokenizer.decode(batch["input_ids"][0]) == chat.tokenizer.decode(whole)
    assert "system" in loss_text(chat, batch, 0)[0].lower()
    assert chat.render_prompt(TWO) == without.render_prompt(TWO)


def test_the_text_equals_the_chat_template_s(chat: ChatFormat) -> None:
    """The separately tokenised turns decode to the template's own text with the image expanded."""
    batch = chat.collate([chat.encode(TWO)], [IMAGE])
    text = chat.processor.apply_chat_template(chat_messages(TWO), tokenize=False)
    whole = chat.processor(text=[text], images=[[IMAGE]], return_tensors="pt")["input_ids"][0]
    assert chat.tokenizer.decode(batch["input_ids"][0]) == chat.tokenizer.decode(whole)


def test_loss_on_all_covers_the_prompt_but_not_the_image(chat: ChatFormat) -> None:
    all_text = ChatFormat(chat.processor, chat.images, max_tokens=512, loss_on="all")
    batch = all_text.collate([all_text.encode(ONE)], [IMAGE])
    text = " ".join(loss_text(all_text, batch, 0))
    assert "Which expression?" in text
    assert ONE[0].response in text
    placeholder = chat.processor.image_token_id
    assert placeholder in batch["input_ids"]
    assert placeholder not in batch["labels"]


def test_padding_carries_no_loss(chat: ChatFormat) -> None:
    batch = chat.collate([chat.encode(TWO[:1]), chat.encode(ONE)], [IMAGE, IMAGE])
    padding = batch["attention_mask"][0] == 0
    assert padding.any()
    assert not padding[: int(batch["attention_mask"][0].sum())].any()
    assert (batch["labels"][0][padding] == IGNORE_INDEX).all()
    alone = chat.collate([chat.encode(TWO[:1])], [IMAGE])
    assert (batch["input_ids"][0][~padding] == alone["input_ids"][0]).all()
    for value in batch.values():
        assert value.shape[:2] == batch["input_ids"].shape or value.shape != batch["input_ids"].shape


def test_long_rows_are_truncated(chat: ChatFormat) -> None:
    length = chat.collate([chat.encode(ONE)], [IMAGE])["input_ids"].shape[1]
    short = ChatFormat(chat.processor, chat.images, max_tokens=length - 3)
    batch = short.collate([short.encode(ONE)], [IMAGE])
    assert batch["input_ids"].shape[1] == length - 3
    assert chat.tokenizer.eos_token_id not in batch["labels"]


def test_prompts_for_generation_are_padded_on_the_left(chat: ChatFormat) -> None:
    prompts = [chat.render_prompt(ONE), chat.render_prompt([Turn("Which?")])]
    batch = chat.collate_prompts(prompts, [IMAGE, IMAGE])
    assert batch["attention_mask"][:, -1].all()
    assert not batch["attention_mask"][1, 0]
    assert chat.encode(ONE).prompt == prompts[0]


def test_images_are_square_or_keep_their_aspect_ratio_within_limits() -> None:
    data = encode_png(np.zeros((40, 80, 3), np.uint8))

    def size(**options: int) -> tuple[int, ...]:
        chat = ChatFormat.__new__(ChatFormat)
        chat.images = ImageOptions(**options)
        return chat.decode_image(data).shape

    assert size() == (224, 224, 3)
    assert size(image_size=56) == (56, 56, 3)
    assert size(min_pixels=12800) == (80, 160, 3)
    assert size(max_pixels=800) == (20, 40, 3)
    assert size(min_pixels=784, max_pixels=10000) == (40, 80, 3)
