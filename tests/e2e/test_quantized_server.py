"""A server whose weights are quantized while it loads answers as any other, and so does one that can fill in text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.demo_model import PATH
from gateway.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
FILL_IN = {
    "int8": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    "int4": ("▁<PRE>", "▁<SUF>", "▁<MID>"),
}


def with_fill_in_tokens(folder: Path, names: tuple[str, ...]) -> Path:
    """The demo model, in whose vocabulary the tokens of the last merges have given way to these."""
    shutil.copytree(PATH, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    for name in names:
        token = vocabulary.pop("".join(merges.pop()))
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": token, "content": name})
    file.write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_openai_client_is_answered(start_server, tmp_path, quantization):
    names = FILL_IN[quantization]
    model = str(with_fill_in_tokens(tmp_path / "model", names))
    named = ("--served-model-name", "demo")
    with start_server(model, *named, "--quantization", quantization, "--num-threads", "1") as server:
        client = server.client()
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
        filled = client.completions.create(prompt="def f(", suffix="):\n", **arguments)
        spelt = client.completions.create(prompt=ids, **arguments)
        assert filled.usage.prompt_tokens == spelt.usage.prompt_tokens == len(ids)
        assert filled.choices[0].text == spelt.choices[0].text
