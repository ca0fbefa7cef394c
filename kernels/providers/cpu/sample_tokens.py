"""Drawing tokens by ``native/sampling.c``: a row is neither sorted nor given noise where that cannot matter."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.sample_tokens import SampleTokens, SampleTokensSpec
from kernels.providers.cpu.argmax import rows_of
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class _Sample(ctypes.Structure):
    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("temperature", ctypes.c_void_p),
        ("top_p", ctypes.c_void_p),
        ("min_p", ctypes.c_void_p),
        ("top_k", ctypes.c_void_p),
        ("seeds", ctypes.c_void_p),
        ("choices", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("vocab", ctypes.c_int32),
    ]


class NativeSampleTokens:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("sample_tokens")

    def __call__(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        seeds: Tensor,
        choices: Tensor,
        positions: Tensor,
    ) -> Tensor:
        logits = rows_of(logits)
        rows, vocab = logits.shape
        floats = [_column(each, rows, torch.float64) for each in (temperature, top_p, min_p)]
        integers = [_column(each, rows, torch.int64) for each in (top_k, seeds, choices, positions)]
        tokens = self._library.empty((rows,), torch.int64)
        columns = (*floats, *integers, tokens)
        addresses = (each.data_ptr() for each in columns)
        arguments = _Sample(logits.data_ptr(), *addresses, logits.stride(0), vocab)
        self._library.launch(self._kernel, arguments, (logits, *columns), rows)
        return tokens


def _column(values: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    if values.shape != (rows,) or values.dtype != dtype:
        raise ValueError(f"{values.dtype} of shape {tuple(values.shape)} for {rows} rows: {dtype} is what there is")
    return values.contiguous()


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: SampleTokensSpec) -> bool:
    return True


PROVIDER: Provider[SampleTokens, SampleTokensSpec] = Provider(
    name="cpu",
    version="1",
    priority=20,
    supported=_supported,
    accepts=_accepts,
    load=lambda: NativeSampleTokens(load()),
)
