"""The likeliest token of each row by ``native/sampling.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.argmax import Argmax, ArgmaxSpec
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class _Argmax(ctypes.Structure):
    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("best", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("vocab", ctypes.c_int32),
    ]


class NativeArgmax:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("argmax")

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = rows_of(logits)
        rows, vocab = logits.shape
        ids, best = self._library.empty((rows,), torch.int64), self._library.empty((rows,))
        arguments = _Argmax(logits.data_ptr(), ids.data_ptr(), best.data_ptr(), logits.stride(0), vocab)
        self._library.launch(self._kernel, arguments, (logits, ids, best), rows)
        return ids, best


def rows_of(logits: Tensor) -> Tensor:
    """Logits with contiguous rows, at any stride. Raises ValueError where they are not float32."""
    if logits.dtype != torch.float32:
        raise ValueError(f"logits of {logits.dtype}: float32 is what there is")
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: ArgmaxSpec) -> bool:
    return True


PROVIDER: Provider[Argmax, ArgmaxSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeArgmax(load())
)
