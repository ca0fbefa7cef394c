"""What RMS and layer normalisation share: the arguments of ``native/norm.c`` and their launch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.providers.cpu.library import Library


class _Norm(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("x_row", ctypes.c_int64),
        ("x_head", ctypes.c_int64),
        ("residual_row", ctypes.c_int64),
        ("residual_head", ctypes.c_int64),
        ("heads", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("eps", ctypes.c_float),
    ]


def launch(
    library: Library,
    kernel: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(normalised, ``x + residual``) of x [T, H] or [T, heads, H], rows and heads at any stride."""
    tensors = [tensor for tensor in (x, residual, weight, bias) if tensor is not None]
    if any(tensor.dtype != torch.float32 or tensor.stride(-1) != 1 for tensor in tensors) or x.dim() not in (2, 3):
        raise ValueError(f"x of shape {tuple(x.shape)}: two or three dimensions of float32, the last contiguous, fit")
    if (residual is not None and residual.shape != x.shape) or weight.shape != x.shape[-1:]:
        raise ValueError(f"x of shape {tuple(x.shape)} with a weight of shape {tuple(weight.shape)} or its residual")
    heads, size = (1 if x.dim() == 2 else x.shape[1]), x.shape[-1]
    out = library.empty(tuple(x.shape))
    total = x if residual is None else library.empty(tuple(x.shape))
    arguments = _Norm(
        x.data_ptr(),
        None if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        total.data_ptr(),
        *_strides(x),
        *_strides(x if residual is None else residual),
        heads,
        size,
        eps,
    )
    library.launch(kernel, arguments, (*tensors, out, total), x.shape[0])
    return out, total


def _strides(x: Tensor) -> tuple[int, int]:
    """Of rows and of heads."""
    return x.stride(0), (0 if x.dim() == 2 else x.stride(1))
