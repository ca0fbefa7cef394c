"""Shapes of the models that a GPU is measured with; weights are drawn on the device, so only a config is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A decoder with gated feed-forward layers."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether the embedding is the output layer, too."""

    @property
    def in_layers(self) -> int:
        """Weights that every token is multiplied with, but those of the output layer."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_size
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def multiplied(self) -> int:
        """Weights that every decoded token is multiplied with."""
        return self.in_layers + self.hidden * self.vocabulary

    def cache_bytes(self, itemsize: int) -> int:
        """Of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size * itemsize

    def config(self) -> dict[str, Any]:
        """As in a checkpoint's config.json."""
        return {
            "architectures": [f"{self.architecture}ForCausalLM"],
            "model_type": self.architecture.lower(),
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config()), encoding="utf-8")
        return folder


LARGE = {
    "llama-8b": Shape("Llama", 32, 4096, 14336, 32, 8, 128, 128256, tied=False),
    "qwen3-0.6b": Shape("Qwen3", 28, 1024, 3072, 16, 8, 128, 151936, tied=True),
}
SMALL = {
    "llama-tiny": Shape("Llama", 2, 64, 128, 4, 2, 16, 512, tied=False),
    "qwen3-tiny": Shape("Qwen3", 2, 64, 96, 4, 2, 32, 512, tied=True),
}
