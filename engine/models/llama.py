"""Llama (Touvron et al. 2023): versions 1 to 3, and the many checkpoints of that shape."""

from __future__ import annotations

from engine.layers.base import LayerContext
from engine.models.base import Model
from engine.models.decoder import Decoder
from engine.models.hf_config import HFConfig
from engine.models.llama_family import decoder_config

ARCHITECTURES = ("LlamaForCausalLM",)


def build(config: HFConfig, context: LayerContext) -> Model:
    attention_bias, mlp_bias = config.default("attention_bias", False), config.default("mlp_bias", False)
    return Decoder(
        decoder_config(config, qkv_bias=attention_bias, output_bias=attention_bias, mlp_bias=mlp_bias), context
    )
