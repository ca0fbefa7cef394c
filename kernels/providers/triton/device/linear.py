"""Products with a matrix, dense or quantized, in one tiling for any number of rows.

Inputs are taken in splits of SPLIT, each from nothing, and the splits are added in rising order, whether one program
does them all (``multiply``) or each is a program of its own (``multiply_split`` and ``add_splits``, for few rows). So a
row has the same sums in the same order whatever stands beside it.

A tile is ROWS rows of x by COLUMNS outputs; INPUTS of both are multiplied at once. FORMAT is 0 for a dense weight
[N, K], 1 for int8 [N, K] with a scale for each output, 2 for int4 [N, K / 2] with scales [K / 32, N]. A byte of int4
holds two inputs of one group of 32: in its lower half the one at its own place in the group, in the upper one that 16
further on.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(a, b, sums, WIDEN: tl.constexpr):
    if WIDEN:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")
    return tl.dot(a, b.to(a.dtype), sums, input_precision="ieee")


@triton.jit
def one_split(
    x,
    weight,
    scales,
    x_row,
    weight_row,
    row,
    column,
    rows,
    columns,
    inputs,
    begin,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    WIDEN: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Sums [ROWS, COLUMNS] over the inputs from ``begin`` on. EVEN: that there is a multiple of INPUTS of them."""
    # What lies past the last row or column is another one again, and nothing of it is stored.
    x += (row % rows).to(tl.int64)[:, None] * x_row
    weight += (column % columns).to(tl.int64)[None, :] * weight_row
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(begin, tl.minimum(begin + SPLIT, inputs), INPUTS):
        if FORMAT == 2:
            half = tl.arange(0, INPUTS // 2)
            low = tl.load(x + (start + half)[None, :])
            high = tl.load(x + (start + INPUTS // 2 + half)[None, :])
            pairs = tl.load(weight + (start // 2 + half)[:, None])
            group = tl.zeros([ROWS, COLUMNS], tl.float32)
            group = product(low, (pairs << 4) >> 4, group, WIDEN)
            group = product(high, pairs >> 4, group, WIDEN)
            scale = tl.load(scales + (start // INPUTS) * columns + column % columns)
            sums += group * scale.to(tl.float32)[None, :]
        else:
            at = start + tl.arange(0, INPUTS)
            if EVEN:
                left, right = tl.load(x + at[None, :]), tl.load(weight + at[:, None])
            else:
                left = tl.load(x + at[None, :], mask=(at < inputs)[None, :], other=0.0)
                right = tl.load(weight + at[:, None], mask=(at < inputs)[:, None], other=0)
            sums = product(left, right, sums, WIDEN)
    return sums


@triton.jit
def store_tile(
    sums, scales, bias, out, out_row, row, column, rows, columns, FORMAT: tl.constexpr, HAS_BIAS: tl.constexpr
):
    held = column < columns
    if FORMAT == 1:
        sums *= tl.load(scales + column, mask=held, other=0.0)[None, :]
    if HAS_BIAS:
        sums += tl.load(bias + column, mask=held, other=0.0).to(tl.float32)[None, :]
    at = out + row.to(tl.int64)[:, None] * out_row + column[None, :]
    tl.store(at, sums.to(out.dtype.element_ty), mask=(row < rows)[:, None] & held[None, :])


@triton.jit
def multiply(
    x,
    weight,
    scales,
    bias,
    out,
    x_row,
    weight_row,
    out_row,
    rows,
    columns,
    inputs,
    FORMAT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    WIDEN: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Each program takes tile after tile. They go down BAND tiles of rows before the next column: those of its
    weights that are read then are in the cache."""
    BAND: tl.constexpr = 16
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    for tile in range(tl.program_id(0), down * across, tl.num_programs(0)):
        band = tile // (BAND * across)
        height = tl.minimum(down - band * BAND, BAND)
        within = tile % (BAND * across)
        row = (band * BAND + within % height) * ROWS + tl.arange(0, ROWS)
        column = (within // height) * COLUMNS + tl.arange(0, COLUMNS)
        sums = tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(0, inputs, SPLIT):
            sums += one_split(
                x, weight, scales, x_row, weight_row, row, column, rows, columns, inputs, begin,
                FORMAT, EVEN, WIDEN, SPLIT, ROWS, COLUMNS, INPUTS,
            )  # fmt: skip
        store_tile(sums, scales, bias, out, out_row, row, column, rows, columns, FORMAT, HAS_BIAS)


@triton.jit
def multiply_split(
    x,
    weight,
    scales,
    parts,
    x_row,
    weight_row,
    rows,
    columns,
    inputs,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    WIDEN: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Program (tile of columns, split), of ROWS rows at most; parts [splits, rows, columns] float32."""
    row = tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(1)
    sums = one_split(
        x, weight, scales, x_row, weight_row, row, column, rows, columns, inputs, split * SPLIT,
        FORMAT, EVEN, WIDEN, SPLIT, ROWS, COLUMNS, INPUTS,
    )  # fmt: skip
    at = parts + ((split * rows + row).to(tl.int64) * columns)[:, None] + column[None, :]
    tl.store(at, sums, mask=(row < rows)[:, None] & (column < columns)[None, :])


@triton.jit
def add_splits(
    parts,
    scales,
    bias,
    out,
    out_row,
    rows,
    columns,
    splits,
    FORMAT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (row, block of columns)."""
    row = tl.program_id(0) + tl.arange(0, 1)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros([1, BLOCK], tl.float32)
    for split in range(splits):
        at = parts + ((split * rows + row).to(tl.int64) * columns)[:, None] + column[None, :]
        sums += tl.load(at, mask=(column < columns)[None, :], other=0.0)
    store_tile(sums, scales, bias, out, out_row, row, column, rows, columns, FORMAT, HAS_BIAS)
