"""Log-probabilities, ranks and the likeliest tokens by ``device/rows.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.token_logprobs import TokenLogprobs, TokenLogprobsSpec
from kernels.providers.triton import supported
from kernels.registry import Provider

BLOCK = 4096


class TritonTokenLogprobs:
    def __init__(self) -> None:
        from kernels.providers.triton.device import rows

        self._kernel = rows.token_logprobs

    def __call__(self, logits: Tensor, targets: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        rows, vocab = logits.shape

        def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=logits.device)

        out = (
            empty((rows,), torch.float32),
            empty((rows,), torch.int64),
            empty((rows, top), torch.int64),
            empty((rows, top), torch.float32),
        )
        self._kernel[(rows,)](logits, targets, *out, logits.stride(0), vocab, top, BLOCK, num_warps=8)
        return out


def _accepts(spec: TokenLogprobsSpec) -> bool:
    return spec.vocab_size < 1 << 31


PROVIDER: Provider[TokenLogprobs, TokenLogprobsSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonTokenLogprobs
)
