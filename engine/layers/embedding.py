"""Token embedding, whose matrix may be that of the language-model head as well."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from engine.layers.base import LayerContext, WeightSlot
from engine.layers.linear import Linear


class Embedding:
    """``matrix`` [vocabulary, hidden] is packed as a linear layer: a tied head multiplies by it."""

    def __init__(self, name: str, vocab_size: int, hidden_size: int, context: LayerContext) -> None:
        self.matrix = Linear(name, hidden_size, vocab_size, False, context, kind="head")

    def weights(self) -> Iterator[WeightSlot]:
        yield from self.matrix.weights()

    def pack(self) -> None:
        self.matrix.pack()

    def __call__(self, input_ids: Tensor) -> Tensor:
        """[T] → [T, hidden]."""
        return self.matrix.rows(input_ids)
