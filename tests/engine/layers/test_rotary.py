"""Rotary tables equal transformers' for the configs that real checkpoints have."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from engine.layers.rotary import Rotary
from engine.models.hf_config import HFConfig
from engine.models.rope import rope_config

CONFIGS = {
    "Llama 2": (4096, {"rope_theta": 10000.0}),
    "Llama 3": (8192, {"rope_theta": 500000.0}),
    "Llama 3.1": (
        131072,
        {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "Qwen2.5 with YaRN": (
        32768,
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    "linear": (16384, {"rope_type": "linear", "rope_theta": 100000, "factor": 4.0}),
}
POSITIONS = torch.tensor([0, 1, 2, 17, 511, 4095])


@pytest.mark.parametrize("name", CONFIGS)
def test_cos_and_sin(name):
    length, parameters = CONFIGS[name]
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=256,
            num_attention_heads=2,
            head_dim=128,
            max_position_embeddings=length,
            rope_parameters=dict(parameters),
        )
    )
    cos, sin = theirs(torch.zeros(1), POSITIONS[None])
    fields = {"max_position_embeddings": length, "rope_parameters": parameters}
    ours = Rotary(rope_config(HFConfig(fields, "config.json"), 128), 4096, torch.device("cpu"))
    our_cos, our_sin = (table[POSITIONS] for table in ours.tables)
    torch.testing.assert_close(our_cos, cos[0, :, :64], atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(our_sin, sin[0, :, :64], atol=2e-6, rtol=1e-6)


def test_a_table_does_not_depend_on_its_length():
    """Dynamic scaling past the trained length: a position's rotation is its own, however long contexts may get."""
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}
    config = rope_config(HFConfig({"max_position_embeddings": 16, "rope_parameters": parameters}, "config.json"), 32)
    short, long = (Rotary(config, length, torch.device("cpu")).tables for length in (40, 128))
    assert torch.equal(short[0], long[0][:40])
    assert torch.equal(short[1], long[1][:40])
