"""Mistral (Jiang et al. 2023): Llama with a sliding window in every layer, unless the config sets it to null."""

from __future__ import annotations

from engine.layers.base import LayerContext
from engine.models.base import Model
from engine.models.decoder import Decoder
from engine.models.hf_config import HFConfig
from engine.models.llama_family import decoder_config

ARCHITECTURES = ("MistralForCausalLM",)


def build(config: HFConfig, context: LayerContext) -> Model:
    windows = (config.optional("sliding_window", 4096),) * config.size("num_hidden_layers")
    return Decoder(decoder_config(config, num_kv_heads=8, sliding_windows=windows), context)
