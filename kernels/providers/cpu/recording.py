"""Records a forward pass as a program of kernels, and notices what a program would leave out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.providers.cpu.library import Library, Program

logger = logging.getLogger(__name__)


class Recorded:
    def __init__(self, program: Program, output: Tensor) -> None:
        self.output, self._program = output, program

    def run(self, tokens: int, sequences: int) -> None:
        self._program.run(tokens, sequences)


def record(library: Library, forward: Callable[[], Tensor]) -> Recorded | None:
    """None where torch itself computes a part of the pass, which a replay would not repeat."""
    with library.record() as program, _Computations() as computations:
        output = forward()
    if computations.names:
        logger.info("steps are not replayed: torch computes %s", ", ".join(sorted(computations.names)))
        return None
    return Recorded(program, output)


class _Computations(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Collects the names of the torch operations that do more than to look at memory in another shape."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.empty.memory_format:
            seen = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args)}
            new = any(tensor.untyped_storage().data_ptr() not in seen for tensor in _tensors(result))
            if new or func._schema.is_mutable:
                self.names.add(str(func))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
