"""What the rest of the engine may ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from engine.layers.attention import AttentionMetadata, LayerCache
from engine.layers.base import Layer


@dataclass(frozen=True)
class CacheShape:
    """What one token takes in the KV cache of one layer, and how many layers have one, on this rank."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


Piece: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""What a model computes of each token by itself: tensors [T, ...] → tensors [T, ...]."""
RunPiece: TypeAlias = Callable[[int, Piece, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""``run(place, piece, inputs)`` gives ``piece(*inputs)``; each piece of a model has a place of its own, from 0."""


def run_at_once(place: int, piece: Piece, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return piece(*inputs)


class Model(Protocol):
    """A decoder. It knows tokens, positions and a cache; it knows nothing of requests or of the scheduler."""

    vocab_size: int
    hidden_size: int
    max_model_len: int
    """The model's own limit, in tokens."""
    cache_shape: CacheShape
    tied_weights: dict[str, str]
    """Name of a weight that a checkpoint may repeat → name of the weight that it must equal."""

    def layers(self) -> Iterator[Layer]:
        """Everything that has weights, each once; together they are what the checkpoint must hold."""
        ...

    def forward(
        self,
        inputs: Tensor,
        cache: Sequence[LayerCache],
        metadata: AttentionMetadata,
        *,
        every_token: bool = False,
        run: RunPiece = run_at_once,
    ) -> Tensor:
        """Token ids [T] of packed sequences → final hidden states [S, hidden], after the last token of each sequence,
        or [T, hidden] if ``every_token``. Writes the cache.

        ``run`` computes the parts between attentions, one for each layer: what comes before its attention. What it
        gives has to be used before the next is run.

        Nothing but the cache is read of the other tokens' last layer, so a model does not compute the rest of it.
        Between the stages of a pipeline [T, hidden] float goes from one ``forward`` into the next.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor | None:
        """Final hidden states [R, hidden] → float32 [R, V] on the rank that samples, None on others of its stage."""
        ...
