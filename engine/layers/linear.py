"""Linear layers, merged where that saves a call: query, key and value in one matrix, gate and up in another.

They come in pairs: a *spreading* layer's outputs are shared by the ranks of a tensor group, what follows works on each
rank's part alone, and a *joining* layer makes of these a result that every rank has (Shoeybi et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.layers.base import LayerContext, MatrixKind, WeightSlot
from engine.parallel import Span
from kernels.ops import linear


@dataclass(frozen=True, slots=True)
class Part:
    """A projection of the checkpoint, and which of its outputs are computed here."""

    name: str
    """Without ``.weight``."""
    rows: Span


class MergedLinear:
    """Several checkpoint projections of one input, stacked along the output."""

    def __init__(
        self,
        parts: Sequence[Part],
        columns: Span,
        bias: bool,
        context: LayerContext,
        kind: MatrixKind = "linear",
    ) -> None:
        """``columns``: which of the inputs are summed over here."""
        out_features = sum(len(part.rows) for part in parts)
        self._parts, self._columns, self._kind = tuple(parts), columns, kind
        self._quantization, self._dtype = context.quantization, context.dtype
        self._weight: Tensor | None = context.empty(out_features, len(columns))
        self._bias: Tensor | None = context.empty(out_features) if bias else None
        self._linear = context.kernels.select(
            linear.OP,
            linear.LinearSpec(len(columns), out_features, bias, context.dtype, context.weight_format(kind)),
        )
        self._handle: Any = None

    def weights(self) -> Iterator[WeightSlot]:
        assert self._weight is not None, "weights are filled before they are packed"
        start = 0
        for part in self._parts:
            place = slice(start, start + len(part.rows))
            yield WeightSlot(f"{part.name}.weight", self._weight[place], part=(part.rows, self._columns))
            if self._bias is not None:
                yield WeightSlot(f"{part.name}.bias", self._bias[place], constant=0.0, part=(part.rows,))
            start = place.stop

    def pack(self) -> None:
        assert self._weight is not None, "packed once"
        weight: linear.Weight = self._weight
        if self._quantization is not None:
            weight = self._quantization.quantize(self._weight, self._kind)
            self._weight = None  # Gone before the packed form takes its room.
        self._handle = self._linear.pack(weight, self._bias)
        self._weight = self._bias = None  # The handle alone decides what stays in memory.

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] → [T, out]."""
        return self._linear(x, self._handle)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the matrix: ids [T] → [T, in]."""
        return self._linear.rows(ids, self._handle, self._dtype)


class QKVLinear(MergedLinear):
    """Query, key and value projections of an attention block named ``prefix``, of this rank's heads."""

    def __init__(
        self,
        prefix: str,
        hidden_size: int,
        heads: Span,
        kv_heads: Span,
        head_dim: int,
        bias: bool,
        context: LayerContext,
    ) -> None:
        spans = [heads, kv_heads, kv_heads]
        parts = [Part(f"{prefix}.{which}_proj", span.times(head_dim)) for which, span in zip("qkv", spans, strict=True)]
        super().__init__(parts, Span.all(hidden_size), bias, context)
        self._heads, self._head_dim = [len(span) for span in spans], head_dim

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, hidden] → q [T, Hq, D], k [T, Hkv, D], v [T, Hkv, D], views of one tensor."""
        q, k, v = torch.split(self(x).view(len(x), -1, self._head_dim), self._heads, dim=1)
        return q, k, v


class GateUpLinear(MergedLinear):
    """Gate and up projections of an MLP named ``prefix``, of this rank's part ``inner`` of the intermediate size."""

    def __init__(self, prefix: str, hidden_size: int, inner: Span, bias: bool, context: LayerContext) -> None:
        parts = [Part(f"{prefix}.gate_proj", inner), Part(f"{prefix}.up_proj", inner)]
        super().__init__(parts, Span.all(hidden_size), bias, context)


class JoiningLinear:
    """A projection of inputs that the ranks have in parts: ``inputs`` says in which.

    Each rank sums over all inputs for its part of the outputs, and both are gathered: so a sum has one order, however
    many ranks there are. Where ``Parallel.reduces`` holds, each sums over its own inputs for all outputs, and the
    partial sums are added: one message in place of two, and other roundings.
    """

    def __init__(self, name: str, inputs: Sequence[Span], out_features: int, bias: bool, context: LayerContext) -> None:
        self._parallel, self._inputs = context.parallel, inputs
        whole = inputs[0].whole
        self._outputs = [Span.all(out_features)] if self._reduces else self._parallel.shares(out_features)
        rank = self._parallel.tensor_rank
        rows = self._outputs[0] if self._reduces else self._outputs[rank]
        columns = inputs[rank] if self._reduces else Span.all(whole)
        # Partial sums are added, and a bias is added once.
        bias = bias and (rank == 0 or not self._reduces)
        self.matrix = MergedLinear([Part(name, rows)], columns, bias, context)

    @property
    def _reduces(self) -> bool:
        return self._parallel.reduces and self._parallel.group is not None

    def weights(self) -> Iterator[WeightSlot]:
        yield from self.matrix.weights()

    def pack(self) -> None:
        self.matrix.pack()

    def __call__(self, x: Tensor) -> Tensor:
        """This rank's columns of [T, in] → [T, out]."""
        if self._reduces:
            assert self._parallel.group is not None
            return self._parallel.group.add(self.matrix(x))
        return self._parallel.join(self.matrix(self._parallel.join(x, self._inputs)), self._outputs)
