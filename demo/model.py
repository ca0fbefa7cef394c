"""The demo model for training: the Qwen3 architecture in plain torch, with Hugging Face's parameter names.

Training wants neither a cache nor masks for padding (rows are padded on the right and attention is causal), which is
what makes this faster than the general class. `tests/demo` compares its logits with `Qwen3ForCausalLM`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 1536,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 6,
    "rope_scaling": None,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}
EPS = CONFIG["rms_norm_eps"]


class Norm(nn.Module):
    """RMS norm over the last dimension."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, EPS)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A projection without bias."""
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves convention: x [rows, heads, length, head_dim], cos and sin [length, head_dim]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = (
            CONFIG["num_attention_heads"],
            CONFIG["num_key_value_heads"],
            CONFIG["head_dim"],
        )
        hidden = CONFIG["hidden_size"]
        self.q_proj = linear(hidden, self.heads * self.dim)
        self.k_proj = linear(hidden, self.kv_heads * self.dim)
        self.v_proj = linear(hidden, self.kv_heads * self.dim)
        self.o_proj = linear(self.heads * self.dim, hidden)
        self.q_norm, self.k_norm = Norm(self.dim), Norm(self.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(rows, length, self.heads, self.dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(rows, length, self.kv_heads, self.dim)).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, self.kv_heads, self.dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    """Gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = (
            linear(hidden, inner),
            linear(hidden, inner),
            linear(inner, hidden),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), MLP()
        self.input_layernorm, self.post_attention_layernorm = Norm(CONFIG["hidden_size"]), Norm(CONFIG["hidden_size"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class DemoModel(nn.Module):
    """ids [rows, length] → hidden states; `loss` ties the output projection to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(CONFIG["vocab_size"], CONFIG["hidden_size"])
        self.model.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.model.norm = Norm(CONFIG["hidden_size"])
        dim = CONFIG["head_dim"]
        frequency = CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        angles = torch.outer(torch.arange(CONFIG["max_position_embeddings"]).float(), frequency).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Small random weights; what writes into the residual stream starts at zero: every layer begins as identity."""
        nn.init.normal_(self.model.embed_tokens.weight, std=0.02)
        for name, p in self.named_parameters():
            if p.ndim == 2 and "embed" not in name:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    nn.init.zeros_(p)

    def forward(self, ids: Tensor) -> Tensor:
        """Final hidden states [rows, length, hidden]."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def logits(self, ids: Tensor) -> Tensor:
        """[rows, length, vocabulary]."""
        return functional.linear(self(ids), self.model.embed_tokens.weight)

    def loss(self, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of the next-token loss: (all tokens by weight, tokens of full weight only)."""
        wanted = weights[:, 1:].reshape(-1)
        keep = wanted.nonzero()[:, 0]
        hidden = self(ids[:, :-1]).reshape(-1, CONFIG["hidden_size"])[keep]
        logits = functional.linear(hidden, self.model.embed_tokens.weight)
        each = functional.cross_entropy(logits, ids[:, 1:].reshape(-1)[keep], reduction="none")
        wanted = wanted[keep]
        return (each * wanted).sum(), each.detach()[wanted == 1].sum()
