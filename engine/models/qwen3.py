"""Qwen3 (Yang et al. 2025): Llama with normalised query and key heads."""

from __future__ import annotations

from engine.layers.base import LayerContext
from engine.models.base import Model
from engine.models.decoder import Decoder
from engine.models.hf_config import HFConfig
from engine.models.llama_family import decoder_config, qwen_sliding_windows

ARCHITECTURES = ("Qwen3ForCausalLM",)


def build(config: HFConfig, context: LayerContext) -> Model:
    bias = config.default("attention_bias", False)
    windows = qwen_sliding_windows(config)
    return Decoder(
        decoder_config(
            config,
            head_dim=128,
            num_kv_heads=32,
            qk_norm=True,
            qkv_bias=bias,
            output_bias=bias,
            sliding_windows=windows,
        ),
        context,
    )
