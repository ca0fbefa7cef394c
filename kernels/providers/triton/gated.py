"""What the gated activations share: their launch."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1024


class Gated:
    def __init__(self) -> None:
        from kernels.providers.triton.device import gated

        self._kernel = gated.gated

    def launch(self, gate_up: Tensor, activation: int) -> Tensor:
        """gate_up [T, 2 I] with contiguous rows → [T, I]. Raises ValueError where they are not."""
        if gate_up.stride(1) != 1:
            raise ValueError(f"gate_up of strides {gate_up.stride()}: rows must be contiguous")
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
        grid = (rows, -(-size // BLOCK))
        self._kernel[grid](gate_up, out, gate_up.stride(0), out.stride(0), size, activation, BLOCK)
        return out
