"""A server whose weights are quantized while it loads answers as any other, and so does one that can fill in text."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
FILL_IN = {
    "int8": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    "int4": ("▁<PRE>", "▁<SUF>", "▁<MID>"),
}


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_openai_client_is_answered(start_server, model_with_tokens, quantization):
    names = FILL_IN[quantization]
    model = str(model_with_tokens(*names))
    named = ("--served-model-name", "demo")
    arguments = (model, *named, "--quantization", quantization, "--num-threads", "1")
    with start_server(*arguments) as server, server.client() as client:
        answer = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
        assert answer.choices[0].message.content == "The capital of France is Paris."
        stream = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == answer.choices[0].message.content
        log = server.log.read_text()
        assert f"weights quantized to {quantization}" in log
        assert f"quantized to {quantization}, held in" in log
        tokenizer = Tokenizer.load(Path(model))
        texts = (names[0], "def f(", names[1], "):\n", names[2])
        ids = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]
        arguments = {"model": "demo", "max_tokens": 8, "temperature": 0}
        shown = {"extra_body": {"return_token_ids": True}}
        filled = client.completions.create(prompt="def f(", suffix="):\n", **arguments, **shown)
        assert filled.choices[0].model_extra["prompt_token_ids"] == ids
        spelt = client.completions.create(prompt=ids, **arguments)
        assert filled.usage.prompt_tokens == spelt.usage.prompt_tokens == len(ids)
        assert filled.choices[0].text == spelt.choices[0].text
