"""Token embedding and language-model head, which may be one matrix."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from engine.layers.base import LayerContext, WeightSlot
from engine.layers.linear import MergedLinear, Part
from engine.parallel import Span
from kernels.capture import outside


class Vocabulary:
    """A matrix [vocabulary, hidden], its rows shared by the ranks of a tensor group."""

    def __init__(self, name: str, vocab_size: int, hidden_size: int, context: LayerContext) -> None:
        self._parallel, self._machine = context.parallel, context.kernels.machine
        self._spans = self._parallel.shares(vocab_size)
        self._rows = self._parallel.share(vocab_size)
        self.matrix = MergedLinear([Part(name, self._rows)], Span.all(hidden_size), False, context, kind="head")

    def weights(self) -> Iterator[WeightSlot]:
        yield from self.matrix.weights()

    def pack(self) -> None:
        self.matrix.pack()

    def embed(self, input_ids: Tensor) -> Tensor:
        """[T] → [T, hidden]."""
        group = self._parallel.group
        if group is None:
            return self.matrix.rows(input_ids)
        held = outside(self._machine, self._clip, tuple(input_ids.shape), input_ids)
        return group.pick(self.matrix.rows(held), input_ids, self._rows)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """[R, hidden] → [R, vocabulary] on the group's first rank; None on its others."""
        group, part = self._parallel.group, self.matrix(hidden)
        return part if group is None else group.join_on_first(part, self._spans)

    def _clip(self, tokens: int, out: Tensor, ids: Tensor) -> None:
        """Ids that are other ranks' become any of the rows here."""
        out[:tokens] = (ids[:tokens] - self._rows.start).clamp_(0, len(self._rows) - 1)
