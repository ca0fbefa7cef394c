"""RMS and layer normalisation of one row a program, after an optional residual addition."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_row(x, residual, total, x_at, residual_at, out_at, columns, mask, HAS_RESIDUAL: tl.constexpr):
    """x, or x + residual rounded to their dtype and stored in ``total``; in float32."""
    row = tl.load(x + x_at + columns, mask=mask, other=0.0)
    if HAS_RESIDUAL:
        added = tl.load(residual + residual_at + columns, mask=mask, other=0.0)
        row = (row.to(tl.float32) + added.to(tl.float32)).to(row.dtype)
        tl.store(total + out_at + columns, row, mask=mask)
    return row.to(tl.float32)


@triton.jit
def rms_norm(
    x,
    residual,
    weight,
    out,
    total,
    x_row,
    x_head,
    residual_row,
    residual_head,
    heads,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (row, head); out and total are contiguous."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    mask = columns < size
    out_at = (row * heads + head) * size
    x_at, residual_at = row * x_row + head * x_head, row * residual_row + head * residual_head
    wide = load_row(x, residual, total, x_at, residual_at, out_at, columns, mask, HAS_RESIDUAL)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    scale = tl.load(weight + columns, mask=mask, other=0.0)
    rounded = wide.to(out.dtype.element_ty).to(tl.float32)  # Before the weight, as in transformers' LlamaRMSNorm.
    tl.store(out + out_at + columns, (rounded * scale.to(tl.float32)).to(out.dtype.element_ty), mask=mask)


@triton.jit
def layer_norm(
    x,
    residual,
    weight,
    bias,
    out,
    total,
    x_row,
    x_head,
    residual_row,
    residual_head,
    heads,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (row, head); out and total are contiguous."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    mask = columns < size
    out_at = (row * heads + head) * size
    x_at, residual_at = row * x_row + head * x_head, row * residual_row + head * residual_head
    wide = load_row(x, residual, total, x_at, residual_at, out_at, columns, mask, HAS_RESIDUAL)
    centred = tl.where(mask, wide - tl.sum(wide, 0) / size, 0.0)
    centred *= tl.rsqrt(tl.sum(centred * centred, 0) / size + eps)
    centred *= tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        centred += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + out_at + columns, centred.to(out.dtype.element_ty), mask=mask)
