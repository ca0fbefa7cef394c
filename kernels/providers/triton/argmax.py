"""The likeliest token of each row by ``device/rows.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.argmax import Argmax, ArgmaxSpec
from kernels.providers.triton import supported
from kernels.registry import Provider

BLOCK = 4096


class TritonArgmax:
    def __init__(self) -> None:
        from kernels.providers.triton.device import rows

        self._kernel = rows.argmax

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        rows, vocab = logits.shape
        ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
        best = torch.empty(rows, dtype=torch.float32, device=logits.device)
        self._kernel[(rows,)](logits, ids, best, logits.stride(0), vocab, BLOCK, num_warps=8)
        return ids, best


def _accepts(spec: ArgmaxSpec) -> bool:
    return True


PROVIDER: Provider[Argmax, ArgmaxSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonArgmax
)
