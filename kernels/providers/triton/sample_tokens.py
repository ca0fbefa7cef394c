"""Drawing tokens by ``device/sampling.py``: a row is neither sorted nor given noise where that cannot matter."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.sample_tokens import SampleTokens, SampleTokensSpec
from kernels.providers.triton import supported
from kernels.registry import Provider

BLOCK = 2048


class TritonSampleTokens:
    def __init__(self) -> None:
        from kernels.providers.triton.device import sampling

        self._kernel = sampling.sample_tokens

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
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        rows, vocab = logits.shape
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        columns = [each.contiguous() for each in (temperature, top_k, top_p, min_p, seeds, choices, positions)]
        self._kernel[(rows,)](logits, *columns, tokens, logits.stride(0), vocab, BLOCK, num_warps=8)
        return tokens


def _accepts(spec: SampleTokensSpec) -> bool:
    return True


PROVIDER: Provider[SampleTokens, SampleTokensSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonSampleTokens
)
