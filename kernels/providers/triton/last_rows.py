"""The last row of each sequence by ``device/rows.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.last_rows import LastRows, LastRowsSpec
from kernels.providers.triton import supported
from kernels.registry import Provider

BLOCK = 1024


class TritonLastRows:
    def __init__(self) -> None:
        from kernels.providers.triton.device import rows

        self._kernel = rows.last_rows

    def __call__(self, x: Tensor, query_start_loc: Tensor) -> Tensor:
        x = x if x.stride(1) == 1 else x.contiguous()
        sequences, size = query_start_loc.shape[0] - 1, x.shape[1]
        out = torch.empty(sequences, size, dtype=x.dtype, device=x.device)
        self._kernel[(sequences, -(-size // BLOCK))](x, query_start_loc, out, x.stride(0), size, BLOCK)
        return out


def _accepts(spec: LastRowsSpec) -> bool:
    return True


PROVIDER: Provider[LastRows, LastRowsSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonLastRows
)
