"""A model in vLLM: it answers questions about images, and loads what `fer merge` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.data.vqa.questions import Turn
from fer.inference.base import Request, SamplingParams

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.mark.parametrize("penalty", [1.0, 1.6])
def test_vllm_answers_as_transformers_does(  # type: ignore[no-untyped-def]
    vllm_client, merged_model: Path, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy answers of the merged model, in vLLM and in transformers: the same first tokens.

    Both can apply the repetition penalty of the model's generation config, to the prompt's tokens too.
    """
    import torch
    from PIL import Image

    from fer.vlm.chat import render_prompt
    from fer.vlm.model import load_model, load_processor
    from fer.vlm.options import VlmModelOptions

    image = np.random.default_rng(0).integers(0, 255, (56, 56, 3), np.uint8)
    monkeypatch.setattr(vllm_client.llm, "default_sampling_params", {"repetition_penalty": penalty})
    requests = [Request(encode_png(image), "Which expression?")] * 2
    responses = vllm_client(requests, SamplingParams(0, 8, model_penalty=True))
    assert responses[0] == responses[1]
    assert (vllm_client(requests[:1], SamplingParams(0, 8)) == responses[:1]) == (penalty == 1)
    processor = load_processor(str(merged_model))
    model = load_model(str(merged_model), VlmModelOptions(precision="fp32")).eval()
    inputs = processor(
        text=[render_prompt(processor, [Turn("Which expression?")])],
        images=[[Image.fromarray(image)]],
        return_tensors="pt",
    )
    with torch.no_grad():
        model.generation_config.repetition_penalty = penalty  # type: ignore[union-attr]
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)  # type: ignore[operator]
    expected = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # vLLM holds back a character whose last bytes are still to come.
    assert responses[0].rstrip("\ufffd") == expected.rstrip("\ufffd")
