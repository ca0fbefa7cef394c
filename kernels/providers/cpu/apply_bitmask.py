"""Ruling tokens out by ``native/bitmask.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.apply_bitmask import ApplyBitmask, ApplyBitmaskSpec
from kernels.providers.cpu.argmax import rows_of
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class _Bitmask(ctypes.Structure):
    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("bits", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("words", ctypes.c_int64),
        ("vocab", ctypes.c_int32),
    ]


class NativeApplyBitmask:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("apply_bitmask")

    def __call__(self, logits: Tensor, bits: Tensor) -> Tensor:
        logits, bits = rows_of(logits), bits.contiguous()
        rows, vocab = logits.shape
        if bits.dtype != torch.int32 or bits.shape != (rows, -(-vocab // 32)):
            raise ValueError(f"bits of {bits.dtype} and shape {tuple(bits.shape)} for {rows} rows of {vocab} tokens")
        out = self._library.empty((rows, vocab))
        addresses = (each.data_ptr() for each in (logits, bits, out))
        arguments = _Bitmask(*addresses, logits.stride(0), bits.shape[1], vocab)
        self._library.launch(self._kernel, arguments, (logits, bits, out), rows)
        return out


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: ApplyBitmaskSpec) -> bool:
    return True


PROVIDER: Provider[ApplyBitmask, ApplyBitmaskSpec] = Provider(
    name="cpu",
    version="1",
    priority=20,
    supported=_supported,
    accepts=_accepts,
    load=lambda: NativeApplyBitmask(load()),
)
