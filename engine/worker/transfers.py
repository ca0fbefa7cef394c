"""Results of a step on their way to the host, while steps after it may already be on their way to the device.

What a GPU is told is done in order, and mostly later. So a result is copied as soon as it is asked for, before the next
step may write where it stands, and is read once a mark that was set behind the copy has been passed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Transfers(Protocol):
    """The seam to the device."""

    def bring(self, tensor: Tensor) -> Tensor:
        """Begin to copy to the host. What is launched later does not change the copy, which is not to be read yet."""
        ...

    def mark(self) -> Callable[[], None]:
        """Gives what waits until all that was begun before is done."""
        ...


class HostTransfers:
    """Of a CPU, which does at once what it is told."""

    def bring(self, tensor: Tensor) -> Tensor:
        return tensor.clone()

    def mark(self) -> Callable[[], None]:
        return _nothing


class CudaTransfers:
    """Over the current stream."""

    def bring(self, tensor: Tensor) -> Tensor:
        # Pinned memory comes from a pool that knows which copies are still under way.
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return copy.copy_(tensor, non_blocking=True)

    def mark(self) -> Callable[[], None]:
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        wait: Callable[[], None] = event.synchronize
        return wait


def transfers_of(device: torch.device) -> Transfers:
    return CudaTransfers() if device.type == "cuda" else HostTransfers()


def _nothing() -> None:
    pass
