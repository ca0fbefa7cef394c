"""Fields that the configs of the Llama family share."""

from __future__ import annotations

from typing import Any

from engine.errors import ModelError
from engine.models.decoder import DecoderConfig
from engine.models.hf_config import HFConfig
from engine.models.rope import rope_config


def decoder_config(config: HFConfig, *, head_dim: int | None = None, **differences: Any) -> DecoderConfig:
    """The shared fields of a config, and an architecture's own ``differences`` as fields of DecoderConfig.

    head_dim: the architecture's default where the config has none; None for hidden size / heads.
    """
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    num_kv_heads = config.optional("num_key_value_heads", differences.pop("num_kv_heads", num_heads)) or num_heads
    if num_heads % num_kv_heads:
        raise ModelError(
            f"{config.source}: num_attention_heads ({num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )
    head_dim = config.size("head_dim", head_dim or hidden_size // num_heads)
    fields: dict[str, Any] = {
        "vocab_size": config.size("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": config.size("intermediate_size"),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": config.default("rms_norm_eps", 1e-6),
        "tie_word_embeddings": config.default("tie_word_embeddings", False),
        "sliding_windows": (None,) * config.size("num_hidden_layers"),
        "rope": rope_config(config, head_dim),
    }
    return DecoderConfig(**(fields | differences))


def qwen_sliding_windows(config: HFConfig) -> tuple[int | None, ...]:
    """Qwen's rule: a window only where ``use_sliding_window`` says so, and only in the layers that ``layer_types``
    names or, without it, from ``max_window_layers`` on."""
    layers = config.size("num_hidden_layers")
    window = config.optional("sliding_window", 4096) if config.default("use_sliding_window", False) else None
    types = config.strings("layer_types")
    if not types:
        first = config.default("max_window_layers", 28)
        return tuple(window if layer >= first else None for layer in range(layers))
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown or len(types) != layers:
        raise config.error("layer_types", f"must name full_attention or sliding_attention for {layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
