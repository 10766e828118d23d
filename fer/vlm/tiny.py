"""Tiny vision-language models of real architectures, with random weights and nothing to download.

They have two layers of width 64, and a small tokenizer with the architecture's special tokens: all code paths of the
real model with a few hundred thousand parameters. They can learn the format of a response, and little else.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fer.data.vqa.prompts import CUES, ferbench_prompt, first_turn_prompt, second_turn_prompt, template_response
from fer.errors import UserError
from fer.labels import EMOTIONS, SPACES

PREFIX = "tiny:"

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny(name: str, folder: Path) -> Path:
    """The folder of the tiny model ``name``, created in ``folder`` if it does not exist. Raises UserError."""
    if name not in BUILDERS:
        raise UserError(f"no tiny model {name!r}; available: {', '.join(PREFIX + known for known in BUILDERS)}")
    from transformers.utils import logging

    path = folder / name
    if not (path / "config.json").exists():
        logging.disable_progress_bar()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model, processor = BUILDERS[name]()
            model.save_pretrained(scratch)
            processor.save_pretrained(scratch)
            # Another process may have created the same model in the meantime.
            if not (path / "config.json").exists():
                os.replace(scratch, path)
                Path(scratch).mkdir()
    return path


def _corpus() -> Iterator[str]:
    """The prompts and template responses, so that the tokenizer learns their words."""
    for space in SPACES.values():
        yield ferbench_prompt(space.labels)
        yield first_turn_prompt(space.labels)
        yield second_turn_prompt(space.labels[0], space.labels)
    for emotion in EMOTIONS:
        for key in range(2 ** len(CUES[emotion])):
            yield template_response(emotion, key)


def _train_tokenizer(special: list[str], template: str, **names: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, additional_special_tokens=special, **names
    )


def _text_config(tokenizer: Any) -> dict[str, Any]:
    """The configuration of the language model, the same for all architectures."""
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen_tokenizer() -> tuple[Any, str]:
    """The tokenizer of the Qwen-VL models, and their chat template."""
    names = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"]
    names += ["quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
    template = _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    special = [f"<|{name}|>" for name in names]
    return _train_tokenizer(special, template, eos_token="<|im_end|>", pad_token="<|endoftext|>"), template


_QWEN_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}


def _qwen_token_ids(tokenizer: Any) -> dict[str, Any]:
    """The special tokens that the configs of the Qwen-VL models name."""
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names, strict=True)}


def _qwen25_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
    )
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer, template = _qwen_tokenizer()
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=template,
    )
    config = Qwen2_5_VLConfig(
        text_config=_text_config(tokenizer)
        | {
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6},
            "tie_word_embeddings": False,
        },
        vision_config={
            **_QWEN_VISION,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        **_qwen_token_ids(tokenizer),
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _smolvlm() -> tuple[Any, Any]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    side, patch, scale = 112, 14, 2
    template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}"
        "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    special += ["<global-img>", "<video>"]
    tokenizer = _train_tokenizer(special, template, eos_token="<end_of_utterance>", pad_token="<|endoftext|>")
    token = tokenizer.convert_tokens_to_ids
    size = {"longest_edge": side}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=(side // patch) ** 2 // scale**2,
        chat_template=template,
    )
    config = SmolVLMConfig(
        text_config=_text_config(tokenizer) | {"model_type": "llama"},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": patch,
        },
        scale_factor=scale,
        image_token_id=token("<image>"),
        tie_word_embeddings=False,
    )
    return SmolVLMForConditionalGeneration(config), processor


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer, template = _qwen_tokenizer()
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=template,
    )
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": True, "rope_theta": 5e6}
    config = Qwen3VLConfig(
        text_config=_text_config(tokenizer) | {"head_dim": 32, "rope_parameters": rope},
        vision_config={
            **_QWEN_VISION,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_qwen_token_ids(tokenizer),
        tie_word_embeddings=False,
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    side, patch, image_tokens = 112, 14, 16
    template = (
        "<bos>{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    special = ["<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    image = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = _train_tokenizer(
        special, template, bos_token="<bos>", eos_token="<end_of_turn>", pad_token="<pad>", extra_special_tokens=image
    )
    token = tokenizer.convert_tokens_to_ids
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        chat_template=template,
        image_seq_length=image_tokens,
    )
    config = Gemma3Config(
        text_config=_text_config(tokenizer)
        | {"head_dim": 32, "bos_token_id": token("<bos>"), "layer_types": ["sliding_attention", "full_attention"]},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": patch,
        },
        mm_tokens_per_image=image_tokens,
        image_token_index=token("<image_soft_token>"),
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
    )
    return Gemma3ForConditionalGeneration(config), processor


BUILDERS: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2.5-vl": _qwen25_vl,
    "qwen3-vl": _qwen3_vl,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
}
