"""Log-probabilities, ranks and likeliest tokens by ``native/logprobs.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.token_logprobs import TokenLogprobs, TokenLogprobsSpec
from kernels.providers.cpu.argmax import rows_of
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class _Logprobs(ctypes.Structure):
    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("logprobs", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("top_ids", ctypes.c_void_p),
        ("top_logprobs", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("vocab", ctypes.c_int32),
        ("top", ctypes.c_int32),
    ]


class NativeTokenLogprobs:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("token_logprobs")

    def __call__(self, logits: Tensor, targets: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, targets = rows_of(logits), targets.contiguous()
        rows, vocab = logits.shape
        if targets.shape != (rows,) or targets.dtype != torch.int64 or not 0 <= top <= vocab:
            raise ValueError(f"{targets.dtype} targets of shape {tuple(targets.shape)}, {top} of {vocab} tokens")
        empty = self._library.empty
        results = (
            empty((rows,)),
            empty((rows,), torch.int64),
            empty((rows, top), torch.int64),
            empty((rows, top)),
        )
        addresses = (each.data_ptr() for each in (logits, targets, *results))
        arguments = _Logprobs(*addresses, logits.stride(0), vocab, top)
        self._library.launch(self._kernel, arguments, (logits, targets, *results), rows)
        return results


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: TokenLogprobsSpec) -> bool:
    return True


PROVIDER: Provider[TokenLogprobs, TokenLogprobsSpec] = Provider(
    name="cpu",
    version="1",
    priority=20,
    supported=_supported,
    accepts=_accepts,
    load=lambda: NativeTokenLogprobs(load()),
)
