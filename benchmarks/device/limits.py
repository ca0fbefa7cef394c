"""What the device can do at most, and whether each kernel computes what its op says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.registry import Machine, Op, ops, providers


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


class Checked(NamedTuple):
    op: str
    provider: str
    dtype: str
    examples: int
    problem: str
    """Empty where each is within the op's tolerance."""


def check_kernels(device: torch.device, seed: int) -> Iterator[Checked]:
    """Every provider that the machine supports, with fresh inputs, against the op's reference on the CPU."""
    machine = Machine.detect(device, deterministic=True)  # It has the providers of others, and some more.
    for op in ops():
        for provider in providers(op.name):
            if provider.supported(machine):
                for dtype in op.tolerances:
                    yield _check(op, provider, dtype, device, seed)


def _check(op: Op[Any, Any], provider: Any, dtype: torch.dtype, device: torch.device, seed: int) -> Checked:
    tried, problem = 0, ""
    name = str(dtype).removeprefix("torch.")
    try:
        implementation, tolerance = provider.load(), op.tolerances[dtype]
        for example in op.examples(dtype, torch.Generator().manual_seed(seed)):
            if not provider.accepts(example.spec):
                continue
            tried += 1
            moved = _to(example.arguments, device)
            found = _several(op.run(implementation, *moved, **_to(dict(example.options), device)))
            expected = _several(op.run(op.reference, *example.arguments, **example.options))
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(
                    one.cpu(), other, atol=tolerance.atol, rtol=tolerance.rtol, equal_nan=True, check_dtype=True
                )
    except Exception as error:  # One kernel that fails is reported, and the others are checked.
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return Checked(op.name, provider.name, name, tried, problem)


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _to(value: Any, device: torch.device) -> Any:
    """The same on the device; tensors are copies."""
    if isinstance(value, Tensor):
        return value.clone().to(device)
    if isinstance(value, dict):
        return {key: _to(each, device) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_to(each, device) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{each.name: _to(getattr(value, each.name), device) for each in fields(value)})
    return value
