"""The last row of each sequence by ``native/last_rows.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.last_rows import LastRows, LastRowsSpec
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class _LastRows(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("size", ctypes.c_int32),
    ]


class NativeLastRows:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("last_rows")

    def __call__(self, x: Tensor, query_start_loc: Tensor) -> Tensor:
        if x.dtype != torch.float32 or x.stride(1) != 1:
            raise ValueError(f"x of {x.dtype} with strides {x.stride()}: float32 with contiguous rows fits")
        if query_start_loc.dtype != torch.int32 or not query_start_loc.is_contiguous():
            raise ValueError("starts are contiguous int32")
        rows, size = len(query_start_loc) - 1, x.shape[1]
        self._library.rows_are_sequences()
        out = self._library.empty((rows, size))
        arguments = _LastRows(x.data_ptr(), out.data_ptr(), query_start_loc.data_ptr(), x.stride(0), size)
        self._library.launch(self._kernel, arguments, (x, out, query_start_loc), rows)
        return out


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: LastRowsSpec) -> bool:
    return spec.dtype == torch.float32


PROVIDER: Provider[LastRows, LastRowsSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeLastRows(load())
)
