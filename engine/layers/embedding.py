"""Token embedding and language-model head, which may be one matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional

from engine.layers.base import LayerContext, WeightSlot
from kernels.ops import linear


class Embedding:
    def __init__(self, name: str, vocab_size: int, hidden_size: int, context: LayerContext) -> None:
        self._name = name
        self.weight = context.empty(vocab_size, hidden_size)

    def weights(self) -> Iterator[WeightSlot]:
        yield WeightSlot(f"{self._name}.weight", self.weight)

    def pack(self) -> None:
        pass

    def __call__(self, input_ids: Tensor) -> Tensor:
        """[T] → [T, hidden]."""
        return functional.embedding(input_ids, self.weight)


class LMHead:
    """Hidden states to logits. ``tied`` is the embedding whose matrix it shares; then it has no weight of its own."""

    def __init__(
        self, name: str, vocab_size: int, hidden_size: int, context: LayerContext, tied: Embedding | None
    ) -> None:
        self._name, self._own = name, tied is None
        self._weight: Tensor | None = context.empty(vocab_size, hidden_size) if tied is None else tied.weight
        self._linear = context.kernels.select(
            linear.OP, linear.LinearSpec(hidden_size, vocab_size, bias=False, dtype=context.dtype)
        )
        self._handle: Any = None

    def weights(self) -> Iterator[WeightSlot]:
        if self._own:
            assert self._weight is not None, "weights are filled before they are packed"
            yield WeightSlot(f"{self._name}.weight", self._weight)

    def pack(self) -> None:
        assert self._weight is not None, "packed once"
        self._handle = self._linear.pack(self._weight, None)
        self._weight = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """[R, hidden] → logits [R, V] in float32."""
        return self._linear(hidden, self._handle).float()
