"""Ruling tokens out by ``device/rows.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.apply_bitmask import ApplyBitmask, ApplyBitmaskSpec
from kernels.providers.triton import supported
from kernels.registry import Provider

BLOCK = 1024


class TritonApplyBitmask:
    def __init__(self) -> None:
        from kernels.providers.triton.device import rows

        self._kernel = rows.apply_bitmask

    def __call__(self, logits: Tensor, bits: Tensor) -> Tensor:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        bits = bits if bits.stride(1) == 1 else bits.contiguous()
        rows, vocab = logits.shape
        out = torch.empty(rows, vocab, dtype=logits.dtype, device=logits.device)
        grid = (rows, -(-vocab // BLOCK))
        self._kernel[grid](logits, bits, out, logits.stride(0), bits.stride(0), vocab, BLOCK)
        return out


def _accepts(spec: ApplyBitmaskSpec) -> bool:
    return True


PROVIDER: Provider[ApplyBitmask, ApplyBitmaskSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonApplyBitmask
)
