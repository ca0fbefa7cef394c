"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on query, key and value."""

from __future__ import annotations

from engine.layers.base import LayerContext
from engine.models.base import Model
from engine.models.decoder import Decoder
from engine.models.hf_config import HFConfig
from engine.models.llama_family import decoder_config, qwen_sliding_windows

ARCHITECTURES = ("Qwen2ForCausalLM",)


def build(config: HFConfig, context: LayerContext) -> Model:
    windows = qwen_sliding_windows(config)
    return Decoder(decoder_config(config, num_kv_heads=32, qkv_bias=True, sliding_windows=windows), context)
