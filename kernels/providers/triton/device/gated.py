"""activation(gate) * up, computed in float32 and rounded once. ACTIVATION: 0 SiLU, 1 GELU by erf, 2 GELU by tanh."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gated(gate_up, out, gate_up_row, out_row, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row, block of columns) of gate_up [T, 2 * size], the gate first → out [T, size]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    at = gate_up + row * gate_up_row + columns
    gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + size, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION == 0:
        gate = gate * tl.sigmoid(gate)
    elif ACTIVATION == 1:
        gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = gate * tl.sigmoid(2.0 * inner)  # (1 + tanh(z)) / 2 is the logistic function of 2 z.
    tl.store(out + row * out_row + columns, (gate * up).to(out.dtype.element_ty), mask=mask)
