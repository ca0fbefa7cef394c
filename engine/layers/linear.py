"""Linear layers, merged where that saves a call: query, key and value in one matrix, gate and up in another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.layers.base import LayerContext, MatrixKind, WeightSlot
from kernels.ops import linear


class MergedLinear:
    """Several checkpoint projections of one input, stacked along the output.

    ``parts`` are (name in the checkpoint without ``.weight``, output features).
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, int]],
        in_features: int,
        bias: bool,
        context: LayerContext,
        kind: MatrixKind = "linear",
    ) -> None:
        out_features = sum(size for _, size in parts)
        self._parts, self._kind = tuple(parts), kind
        self._quantization, self._dtype = context.quantization, context.dtype
        self._weight: Tensor | None = context.empty(out_features, in_features)
        self._bias: Tensor | None = context.empty(out_features) if bias else None
        self._linear = context.kernels.select(
            linear.OP,
            linear.LinearSpec(in_features, out_features, bias, context.dtype, context.weight_format(kind)),
        )
        self._handle: Any = None

    def weights(self) -> Iterator[WeightSlot]:
        assert self._weight is not None, "weights are filled before they are packed"
        start = 0
        for name, size in self._parts:
            yield WeightSlot(f"{name}.weight", self._weight[start : start + size])
            if self._bias is not None:
                yield WeightSlot(f"{name}.bias", self._bias[start : start + size], constant=0.0)
            start += size

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


class Linear(MergedLinear):
    """One projection of the checkpoint as it is."""

    def __init__(
        self,
        name: str,
        in_features: int,
        out_features: int,
        bias: bool,
        context: LayerContext,
        kind: MatrixKind = "linear",
    ) -> None:
        super().__init__([(name, out_features)], in_features, bias, context, kind)


class QKVLinear(MergedLinear):
    """Query, key and value projections of an attention block named ``prefix``."""

    def __init__(
        self, prefix: str, hidden_size: int, heads: int, kv_heads: int, head_dim: int, bias: bool, context: LayerContext
    ) -> None:
        self._heads = [heads, kv_heads, kv_heads]
        parts = [(f"{prefix}.{which}_proj", n * head_dim) for which, n in zip("qkv", self._heads, strict=True)]
        super().__init__(parts, hidden_size, bias, context)
        self._head_dim = head_dim

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, hidden] → q [T, Hq, D], k [T, Hkv, D], v [T, Hkv, D], views of one tensor."""
        q, k, v = torch.split(self(x).view(len(x), -1, self._head_dim), self._heads, dim=1)
        return q, k, v


class GateUpLinear(MergedLinear):
    """Gate and up projections of an MLP named ``prefix``."""

    def __init__(
        self, prefix: str, hidden_size: int, intermediate_size: int, bias: bool, context: LayerContext
    ) -> None:
        parts = [(f"{prefix}.gate_proj", intermediate_size), (f"{prefix}.up_proj", intermediate_size)]
        super().__init__(parts, hidden_size, bias, context)
