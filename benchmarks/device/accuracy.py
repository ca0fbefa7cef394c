"""How far each kernel is from what its op says, computed in float64.

Errors are in units in the last place: of the result's dtype, at the size of the number or, where that is more, at the
root mean square of its row. What is rounded once and correctly is off by half a unit at most. Beside them stand those
of the op's reference in the same dtype, which is what a kernel can be expected to reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kernels.registry import Example, Machine, Op, Provider, ops, providers

NARROWER = (torch.float32, torch.float16, torch.bfloat16)


class Checked(NamedTuple):
    op: str
    provider: str
    dtype: str
    examples: int
    greatest: float | None
    """Error in units; None where every result has to be equal."""
    typical: float | None
    """Root mean square of the errors."""
    reference_greatest: float | None
    """The same of the op's reference in that dtype, on the CPU."""
    reference_typical: float | None
    problem: str
    """Empty where each result is within the op's tolerance."""


def check_kernels(device: torch.device, seed: int) -> Iterator[Checked]:
    """Every provider that the machine supports, deterministic or not, with fresh inputs."""
    machine = Machine.detect(device)
    for op in ops():
        for provider in providers(op.name):
            if any(provider.supported(replace(machine, deterministic=each)) for each in (False, True)):
                for dtype in op.tolerances:
                    checked = check(op, provider, dtype, device, seed)
                    if checked.examples:
                        yield checked


def check(
    op: Op[Any, Any], provider: Provider[Any, Any], dtype: torch.dtype, device: torch.device, seed: int
) -> Checked:
    tried, problem = 0, ""
    mine, its = Errors(), Errors()
    try:
        implementation, tolerance = provider.load(), op.tolerances[dtype]
        for example in op.examples(dtype, torch.Generator().manual_seed(seed)):
            if not provider.accepts(example.spec):
                continue
            tried += 1
            moved, options = (
                _map(example.arguments, lambda t: t.clone().to(device)),
                _map(dict(example.options), lambda t: t.to(device)),
            )
            found = [each.cpu() for each in _several(op.run(implementation, *moved, **options))]
            expected = _several(op.run(op.reference, *example.arguments, **example.options))
            for one, other, exact in zip(found, expected, in_float64(op, example), strict=True):
                if exact is not None:
                    mine.add(one, exact)
                    its.add(other, exact)
                torch.testing.assert_close(one, other, atol=tolerance.atol, rtol=tolerance.rtol, equal_nan=True)
    except Exception as error:  # One kernel that fails is reported, and the others are checked.
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    name = str(dtype).removeprefix("torch.")
    return Checked(op.name, provider.name, name, tried, mine.greatest, mine.typical, its.greatest, its.typical, problem)


class Errors:
    def __init__(self) -> None:
        self._greatest, self._squares, self._count = 0.0, 0.0, 0

    def add(self, found: Tensor, exact: Tensor) -> None:
        """What is NaN or infinite in ``exact`` has no error; see the comparison within the tolerance for it."""
        size = torch.maximum(exact.abs(), exact.square().nanmean(-1, keepdim=True).sqrt())
        units = (found.double() - exact).abs() / (size * torch.finfo(found.dtype).eps)
        units = units[torch.isfinite(exact) & (size > 0)]
        if len(units):
            self._greatest = max(self._greatest, float(units.max()))
            self._squares += float(units.square().sum())
            self._count += len(units)

    @property
    def greatest(self) -> float | None:
        return self._greatest if self._count else None

    @property
    def typical(self) -> float | None:
        return (self._squares / self._count) ** 0.5 if self._count else None


class InDoubles(TorchFunctionMode):
    """Inside, what a reference computes in float32 is computed in float64, and nothing is rounded to less."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return args[0].double()
        return function(*map(_widened, args), **{name: _widened(each) for name, each in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROWER else value


def in_float64(op: Op[Any, Any], example: Example[Any]) -> tuple[Tensor | None, ...]:
    """What the op says of the example, of inputs widened; None for each result that has to be equal or has no dtype
    of floats to be measured in."""
    arguments = _map(example.arguments, _wide)
    expected = _several(op.run(op.reference, *example.arguments, **example.options))
    if op.name == "token_logprobs":  # Its order is by the bits of a float32.
        logprobs = torch.log_softmax(arguments[0], -1)
        return logprobs.gather(-1, arguments[1][:, None])[:, 0], None, None, logprobs.gather(-1, expected[2])
    inexact = any(tolerance.rtol > 0 for tolerance in op.tolerances.values()) and op.name != "quantize"
    if not inexact:
        return (None,) * len(expected)
    with InDoubles():
        exact = _several(op.run(op.reference, *arguments, **_map(example.options, _wide)))
    return tuple(each if result.dtype in NARROWER else None for each, result in zip(exact, expected, strict=True))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in NARROWER else tensor


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(each, change) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_map(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{each.name: _map(getattr(value, each.name), change) for each in fields(value)})
    return value
