"""The decoder that the Llama family shares: pre-norm attention and gated MLP blocks, rotary embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.layers.attention import Attention, AttentionMetadata, LastRows, LayerCache
from engine.layers.base import Layer, LayerContext
from engine.layers.embedding import Vocabulary
from engine.layers.linear import GateUpLinear, JoiningLinear, QKVLinear
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RopeConfig, Rotary
from engine.models.base import CacheShape, RunPiece, run_at_once
from engine.parallel import Parallel
from kernels.capture import outside
from kernels.ops import silu_and_mul


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """All that distinguishes one decoder of the family from another."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS-normalise each query and key head before the rotation."""
    tie_word_embeddings: bool
    sliding_windows: tuple[int | None, ...]
    """One for each layer."""
    rope: RopeConfig


class DecoderAttention:
    def __init__(self, prefix: str, config: DecoderConfig, window: int | None, context: LayerContext) -> None:
        head_dim, hidden = config.head_dim, config.hidden_size
        heads, kv_heads = context.parallel.share_heads(config.num_heads, config.num_kv_heads)
        self.qkv = QKVLinear(prefix, hidden, heads, kv_heads, head_dim, config.qkv_bias, context)
        attended = [span.times(head_dim) for span in context.parallel.shares(config.num_heads)]
        self.output = JoiningLinear(f"{prefix}.o_proj", attended, hidden, config.output_bias, context)
        self.norms = (
            (
                RMSNorm(f"{prefix}.q_norm", head_dim, config.rms_norm_eps, context),
                RMSNorm(f"{prefix}.k_norm", head_dim, config.rms_norm_eps, context),
            )
            if config.qk_norm
            else None
        )
        self.attention = Attention(len(heads), len(kv_heads), head_dim, window, context)

    def layers(self) -> Iterator[Layer]:
        yield from (self.qkv, self.output, *(self.norms or ()))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``attention`` takes."""
        q, k, v = self.qkv.heads(x)
        if self.norms is not None:
            q, k = self.norms[0](q), self.norms[1](k)
        return q, k, v


class DecoderMLP:
    def __init__(self, prefix: str, config: DecoderConfig, context: LayerContext) -> None:
        hidden, shares = config.hidden_size, context.shares(config.intermediate_size)
        inner = shares[context.parallel.tensor_rank]
        self.gate_up = GateUpLinear(prefix, hidden, inner, config.mlp_bias, context)
        self.down = JoiningLinear(f"{prefix}.down_proj", shares, hidden, config.mlp_bias, context)
        self._activate = context.kernels.select(silu_and_mul.OP, silu_and_mul.SiluAndMulSpec(len(inner), context.dtype))

    def layers(self) -> Iterator[Layer]:
        yield from (self.gate_up, self.down)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self._activate(self.gate_up(x)))


class DecoderBlock:
    def __init__(self, prefix: str, config: DecoderConfig, window: int | None, context: LayerContext) -> None:
        eps, hidden = config.rms_norm_eps, config.hidden_size
        self.attention_norm = RMSNorm(f"{prefix}.input_layernorm", hidden, eps, context)
        self.attention = DecoderAttention(f"{prefix}.self_attn", config, window, context)
        self.mlp_norm = RMSNorm(f"{prefix}.post_attention_layernorm", hidden, eps, context)
        self.mlp = DecoderMLP(f"{prefix}.mlp", config, context)

    def layers(self) -> Iterator[Layer]:
        yield from (self.attention_norm, *self.attention.layers(), self.mlp_norm, *self.mlp.layers())

    def before(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, ...]:
        """``x`` is to be added to the residual stream → (residual stream, q, k, v)."""
        normed, residual = self.attention_norm.add(x, residual)
        return residual, *self.attention.heads(normed)

    def after(self, residual: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """(what this block adds last, the residual stream without it): the next norm adds the two."""
        normed, residual = self.mlp_norm.add(self.attention.output(attended.flatten(1)), residual)
        return self.mlp(normed), residual


class Decoder:
    """A ``Model`` whose weights are named as in transformers' ``LlamaForCausalLM``; of a pipeline, one stage."""

    def __init__(self, config: DecoderConfig, context: LayerContext) -> None:
        parallel, size = context.parallel, (config.vocab_size, config.hidden_size)
        self._parallel, self._machine = parallel, context.kernels.machine
        self.vocab_size, self.hidden_size = size
        self.max_model_len = config.rope.max_model_len
        layers, tied = parallel.layers(len(config.sliding_windows)), config.tie_word_embeddings
        self.cache_shape = CacheShape(len(layers), _kv_heads(config, parallel), config.head_dim)
        self.embedding: Vocabulary | None = None
        self.norm: RMSNorm | None = None
        self.head: Vocabulary | None = None
        if parallel.first or (parallel.last and tied):
            self.embedding = Vocabulary("model.embed_tokens", *size, context)
        self.blocks = [
            DecoderBlock(f"model.layers.{index}", config, config.sliding_windows[index], context) for index in layers
        ]
        self._last_rows = LastRows(context)
        if parallel.last:
            self.norm = RMSNorm("model.norm", config.hidden_size, config.rms_norm_eps, context)
            self.head = self.embedding if tied else Vocabulary("lm_head", *size, context)
        self.tied_weights = {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}
        self.rotary = Rotary(
            config.rope, min(context.max_model_len or self.max_model_len, self.max_model_len), context.device
        )

    def layers(self) -> Iterator[Layer]:
        if self.embedding is not None:
            yield self.embedding
        for block in self.blocks:
            yield from block.layers()
        if self.norm is not None:
            yield self.norm
        if self.head is not None and self.head is not self.embedding:
            yield self.head

    def forward(
        self,
        inputs: Tensor,
        cache: Sequence[LayerCache],
        metadata: AttentionMetadata,
        *,
        every_token: bool = False,
        run: RunPiece = run_at_once,
    ) -> Tensor:
        narrows = self._parallel.last and not every_token and metadata.max_query_len > 1
        rotation = self.rotary.tables
        residual, q, k, v = run(0, self._enter, (inputs,))
        for place, (block, layer_cache) in enumerate(zip(self.blocks, cache, strict=True), 1):
            last = self._last_rows if narrows and place == len(self.blocks) else None
            attended = block.attention.attention(q, k, v, rotation, layer_cache, metadata, last)
            if place < len(self.blocks):
                residual, q, k, v = run(place, partial(_pass, block, self.blocks[place]), (residual, attended))
        # All tokens' keys and values are written: the rest is computed for those that are asked for.
        x, residual = self.blocks[-1].after(residual if last is None else last(residual, metadata), attended)
        if self.norm is not None:
            return self.norm.add(x, residual)[0]
        # What the first norm of the next stage would add.
        return outside(self._machine, _add, tuple(x.shape), x, residual)

    def _enter(self, inputs: Tensor) -> tuple[Tensor, ...]:
        if self._parallel.first:
            assert self.embedding is not None
            inputs = self.embedding.embed(inputs)
        return self.blocks[0].before(inputs, None)

    def logits(self, hidden: Tensor) -> Tensor | None:
        assert self.head is not None, "asked of the last stage"
        logits = self.head.logits(hidden)
        return None if logits is None else logits.float()


def _pass(block: DecoderBlock, following: DecoderBlock, residual: Tensor, attended: Tensor) -> tuple[Tensor, ...]:
    """From one attention to the next."""
    return following.before(*block.after(residual, attended))


def _kv_heads(config: DecoderConfig, parallel: Parallel) -> int:
    return len(parallel.share_heads(config.num_heads, config.num_kv_heads)[1])


def _add(tokens: int, out: Tensor, x: Tensor, residual: Tensor) -> None:
    torch.add(x[:tokens], residual[:tokens], out=out[:tokens])
