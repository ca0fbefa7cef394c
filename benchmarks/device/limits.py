"""What the device can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Limits(NamedTuple):
    copy_bytes_per_second: float
    """Read and written, by a copy of a large tensor."""
    matmul_flop_per_second: float
    """Of PyTorch's product of two large bfloat16 matrices."""


def measure(device: torch.device, *, small: bool) -> Limits:
    size = 1 << 22 if small else 1 << 30
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = fastest(lambda: target.copy_(source), device)
    side = 256 if small else 8192
    a = torch.randn(side, side, device=device).to(torch.bfloat16)
    product = fastest(lambda: a @ a, device)
    return Limits(2 * size / copy, 2 * side**3 / product)


def fastest(run: Callable[[], Any], device: torch.device, times: int = 10) -> float:
    """Seconds of the fastest of some runs, after two that are not counted."""
    found = []
    for number in range(times + 2):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        if number >= 2:
            found.append(time.perf_counter() - began)
    return min(found)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
