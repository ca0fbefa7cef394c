"""Linear layer: ``x @ weight.T + bias``, the weight dense or quantized.

The one op whose implementation may want a layout of its own: ``pack`` is called once, after the weights are loaded,
and what it returns is passed back on every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Example, Op, Tolerance

Handle = Any
"""A provider's own form of a weight and its bias."""

WeightFormat: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "int4"]
"""How a weight lies in memory."""
DENSE: dict[torch.dtype, WeightFormat] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}

GROUP = 32
"""Inputs that share one scale in int4."""
SLAB = 1 << 18
"""Weights that the reference widens at once: 1 MiB of float32."""


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """``values[n, k] * scales[n]``: one scale an output channel."""

    values: Tensor
    """[N, K] int8."""
    scales: Tensor
    """[N] float32."""

    def dense(self, rows: Any) -> Tensor:
        """The chosen rows in float32."""
        return self.values[rows].float() * self.scales[rows, None]


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """``values[n, k] * scales[n, k // GROUP]``: one scale for each group of inputs."""

    values: Tensor
    """[N, K] int8 in [-8, 7]; K a multiple of GROUP."""
    scales: Tensor
    """[N, K / GROUP] float16."""

    def dense(self, rows: Any) -> Tensor:
        """The chosen rows in float32; exact, as a product of 4 bits and 11 is."""
        return self.values[rows].float() * self.scales[rows].float().repeat_interleave(GROUP, dim=-1)


Weight: TypeAlias = Tensor | Int8Weight | Int4Weight


class Linear(Protocol):
    def pack(self, weight: Weight, bias: Tensor | None) -> Handle:
        """``weight`` [N, K] and ``bias`` [N] in the form that calls want. May keep them or copy them."""
        ...

    def __call__(self, x: Tensor, handle: Handle) -> Tensor:
        """``x`` [T, K] → [T, N] in the dtype of x; sums are kept in float32 or wider."""
        ...

    def rows(self, ids: Tensor, handle: Handle, dtype: torch.dtype) -> Tensor:
        """Rows of the weight: ids [T] in [0, N) → [T, K] in ``dtype``. An embedding, which may share the matrix."""
        ...


@dataclass(frozen=True)
class LinearSpec:
    in_features: int
    out_features: int
    bias: bool
    dtype: torch.dtype
    """Of x and of the result."""
    weights: WeightFormat


class TorchLinear:
    """The reference: torch's own product. A weight in another dtype than x is widened to float32 a slab at a time."""

    def pack(self, weight: Weight, bias: Tensor | None) -> Handle:
        return weight, bias

    def __call__(self, x: Tensor, handle: Handle) -> Tensor:
        weight, bias = handle
        if isinstance(weight, Tensor) and weight.dtype == x.dtype:
            return functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
        out_features = (weight if isinstance(weight, Tensor) else weight.values).shape[0]
        wide, out = x.float(), torch.empty(x.shape[0], out_features, dtype=x.dtype, device=x.device)
        slab = max(1, SLAB // x.shape[1])
        for start in range(0, out_features, slab):
            rows = slice(start, start + slab)
            added = None if bias is None else bias[rows].float()
            out[:, rows] = functional.linear(wide, _dense(weight, rows), added)
        return out

    def rows(self, ids: Tensor, handle: Handle, dtype: torch.dtype) -> Tensor:
        return _dense(handle[0], ids.long()).to(dtype)


def _dense(weight: Weight, rows: Any) -> Tensor:
    return weight[rows].float() if isinstance(weight, Tensor) else weight.dense(rows)


def _run(implementation: Linear, x: Tensor, weight: Weight, bias: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor]:
    handle = implementation.pack(weight, bias)
    return implementation(x, handle), implementation.rows(ids, handle, x.dtype)


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[LinearSpec]]:
    formats: tuple[WeightFormat, ...] = (DENSE[dtype], "int8", "int4")
    if dtype == torch.float32:
        formats += ("bfloat16", "float16")
    shapes = [(1, 64, 96, False), (3, 33, 7, True), (5, 96, 40, True), (17, 128, 260, True), (40, 544, 72, False)]
    for weights in formats:
        for rows, in_features, out_features, bias in shapes:
            if weights == "int4" and in_features % GROUP:
                continue
            x = torch.randn(rows, in_features, generator=generator).to(dtype)
            weight = _example_weight(weights, out_features, in_features, generator)
            added = torch.randn(out_features, generator=generator).to(dtype) if bias else None
            ids = torch.randint(0, out_features, (rows,), generator=generator, dtype=torch.int32)
            yield Example(LinearSpec(in_features, out_features, bias, dtype, weights), (x, weight, added, ids))


def _example_weight(weights: WeightFormat, rows: int, columns: int, generator: torch.Generator) -> Weight:
    scale = columns**-0.5
    if weights == "int8":
        values = torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)
        return Int8Weight(values, torch.rand(rows, generator=generator) * scale / 64)
    if weights == "int4":
        values = torch.randint(-8, 8, (rows, columns), generator=generator, dtype=torch.int8)
        return Int4Weight(values, (torch.rand(rows, columns // GROUP, generator=generator) * scale / 4).half())
    dtype = next(dtype for dtype, name in DENSE.items() if name == weights)
    dense: Tensor = (torch.randn(rows, columns, generator=generator) * scale).to(dtype)
    return dense


OP: Op[Linear, LinearSpec] = Op(
    name="linear",
    reference=TorchLinear(),
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
    run=_run,
)
