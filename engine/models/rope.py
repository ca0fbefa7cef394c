"""The rotary-embedding fields of a config: ``rope_parameters`` of transformers 5, ``rope_scaling`` and ``rope_theta``
of the checkpoints before it."""

from __future__ import annotations

from engine.errors import ModelError
from engine.layers.rotary import RopeConfig
from engine.models.hf_config import HFConfig

TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
FIELDS = {
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
}
"""Beside the common ones, the fields that each type reads."""
IGNORED = {"original_max_position_embeddings", "finetuned"}
"""Found in checkpoints whose type does not read them; transformers does not either."""


def rope_config(config: HFConfig, head_dim: int, default_theta: float = 10_000.0) -> RopeConfig:
    """Raises ModelError for a type or a field that is not supported."""
    rope = config.section("rope_scaling") or config.section("rope_parameters") or HFConfig({}, config.source)
    rope_type = rope.get("rope_type", str) or rope.get("type", str) or "default"
    if rope_type not in TYPES:
        found = f"{rope_type!r}, which is not supported; supported are {', '.join(TYPES)}"
        raise ModelError(f"{rope.source}: rope_type is {found}")
    theta = rope.get("rope_theta", float) or config.default("rope_theta", default_theta)
    rope.refuse_unsupported()
    unknown = rope.names() - COMMON - FIELDS[rope_type] - IGNORED
    if unknown:
        raise ModelError(f"{rope.source}: not supported with rope_type {rope_type!r}: {', '.join(sorted(unknown))}")
    if head_dim % 2:
        raise ModelError(f"{config.source}: rotary embeddings need an even head_dim, not {head_dim}")
    trained = config.size("max_position_embeddings")
    if rope_type == "default":
        return RopeConfig("default", theta, head_dim, trained)
    if rope_type == "linear":
        return RopeConfig("linear", theta, head_dim, trained, factor=rope.require("factor", float))
    if rope_type == "dynamic":
        return RopeConfig("dynamic", theta, head_dim, trained, factor=rope.require("factor", float))
    original = _original_length(config, rope, trained)
    if rope_type == "llama3":
        return RopeConfig(
            "llama3",
            theta,
            head_dim,
            trained,
            factor=rope.require("factor", float),
            original_max_position_embeddings=original,
            low_freq_factor=rope.require("low_freq_factor", float),
            high_freq_factor=rope.require("high_freq_factor", float),
        )
    return RopeConfig(
        "yarn",
        theta,
        head_dim,
        trained,
        factor=rope.get("factor", float) or trained / original,
        original_max_position_embeddings=original,
        beta_fast=rope.get("beta_fast", float) or 32.0,
        beta_slow=rope.get("beta_slow", float) or 1.0,
        attention_factor=rope.get("attention_factor", float),
        mscale=rope.get("mscale", float),
        mscale_all_dim=rope.get("mscale_all_dim", float),
        truncate=rope.default("truncate", True),
    )


def _original_length(config: HFConfig, rope: HFConfig, trained: int) -> int:
    """As transformers: the field beside the rope parameters wins over the one among them."""
    return (
        config.get("original_max_position_embeddings", int)
        or rope.get("original_max_position_embeddings", int)
        or trained
    )
