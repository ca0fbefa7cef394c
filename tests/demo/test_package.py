"""The shipped folder: sizes, tokenizer rules, template, and that it is the model that was trained."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from demo.model import CONFIG, DemoModel
from demo.muon import orthogonalize
from demo.template import CHAT_TEMPLATE, render

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Genève"}}}
CONVERSATIONS = [
    ([{"role": "user", "content": "Hello!"}], None),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], None),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}], [TOOL, TOOL]),
    (
        [
            {"role": "user", "content": "Weather in Genève?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
            {"role": "tool", "content": '{"temperature": 3}'},
            {"role": "assistant", "content": "It is 3 degrees."},
            {"role": "user", "content": "Thanks"},
            {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]},
        ],
        [TOOL],
    ),
]


@pytest.mark.parametrize(("messages", "tools"), CONVERSATIONS)
@pytest.mark.parametrize("generate", [False, True])
def test_the_template_renders_what_training_rendered(tokenizer, messages, tools, generate):
    shipped = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=generate, tokenize=False)
    assert shipped == render(messages, tools, generate)


def test_the_template_takes_what_clients_send(tokenizer):
    as_text = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": None, "tool_calls": [as_text]},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
    )


def test_the_shipped_template_is_the_one_in_the_source(tokenizer):
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_digits_are_single_tokens(tokenizer):
    for text in ("1234567890", "47 + 35 = 82.", '{"age": 31}'):
        tokens = tokenizer.tokenize(text)
        assert [t for t in tokens if any(c.isdigit() for c in t)] == [c for c in text if c.isdigit()]


def test_words_before_a_closing_quote_are_letters_but_json_is_not(tokenizer):
    letters = tokenizer.tokenize('Spell "strawberry".')
    assert [t for t in letters if len(t) == 1][:10] == list("strawberry")
    assert "name" in tokenizer.tokenize('{"name": "Anna"}')


@pytest.mark.parametrize(
    "text", ["Hello, world!", "naïve façade 日本語 🦊", "a\n\n  b\t", "<tool_call>\n{}\n</tool_call>"]
)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids, skip_special_tokens=True) == text


def test_sizes(folder):
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) <= 16 * 2**20
    with safe_open(folder / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.offset_keys()]
        assert {weights.get_slice(name).get_dtype() for name in weights.offset_keys()} == {"BF16"}
    assert 3_000_000 <= sum(torch.Size(shape).numel() for shape in shapes) <= 8_000_000
    assert all(size % 4 == 0 for shape in shapes for size in shape)


def test_config_and_tokenizer_agree(folder, tokenizer):
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads(json.dumps(CONFIG))
    assert len(tokenizer) == config["vocab_size"]
    assert tokenizer.eos_token_id == config["eos_token_id"]
    assert tokenizer.pad_token_id == config["pad_token_id"]


def test_the_training_model_equals_the_library_model(folder):
    from transformers import AutoModelForCausalLM

    library = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = DemoModel()
    ours.load_state_dict({name: p.float() for name, p in load_file(folder / "model.safetensors").items()})
    ids = torch.randint(5, CONFIG["vocab_size"], (2, 70), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(library(ids).logits, ours.logits(ids), atol=1e-4, rtol=1e-4)


def test_muon_updates_are_nearly_orthogonal():
    update = orthogonalize(torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(1)))
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5
    assert values.max() < 1.3
