"""What the gated activations share: the arguments of ``native/activation.c`` and their launch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.providers.cpu.library import Library


class _Gated(ctypes.Structure):
    _fields_ = [
        ("gate_up", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("size", ctypes.c_int32),
    ]


def launch(library: Library, kernel: int, gate_up: Tensor) -> Tensor:
    """[T, I] of gate_up [T, 2 I], rows at any stride."""
    rows, columns = gate_up.shape
    if gate_up.dtype != torch.float32 or gate_up.stride(1) != 1 or columns % 2:
        raise ValueError(f"{gate_up.dtype} of shape {tuple(gate_up.shape)}, strides {gate_up.stride()}: no gated rows")
    out = library.empty((rows, columns // 2))
    arguments = _Gated(gate_up.data_ptr(), out.data_ptr(), gate_up.stride(0), columns // 2)
    library.launch(kernel, arguments, (gate_up, out), rows)
    return out
