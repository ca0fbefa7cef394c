"""Records a forward pass as a program of kernels, and notices what a program would leave out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kernels.providers.cpu.library import Library, Program

logger = logging.getLogger(__name__)


class Recorded:
    def __init__(self, program: Program, output: Tensor, tail: tuple[Tensor, ...]) -> None:
        self.output, self.tail, self.program = output, tail, program

    def run(self, tokens: int, sequences: int) -> None:
        self.program.run(tokens, sequences)


def record(
    library: Library, forward: Callable[[], Tensor], tail: Callable[[Tensor], tuple[Tensor, ...]]
) -> Recorded | None:
    """None where torch itself computes a part of the pass, which a replay would not repeat."""
    with library.record() as program, _Computations() as computations:
        output = forward()
        results = tail(output)
    if computations.names:
        logger.info("steps are not replayed: torch computes %s", ", ".join(sorted(computations.names)))
        return None
    return Recorded(program, output, results)


IN_PLACE = re.compile(r"[a-z].*_|__i[a-z]+__|__setitem__")
"""Names of functions that change their first argument."""
MEMORY = (torch.empty, torch.frombuffer)
"""They give memory and compute nothing."""


class _Computations(TorchFunctionMode):
    """Collects the names of the torch functions that do more than to look at memory in another shape.

    A TorchDispatchMode would be told of them more exactly, but the first one in a process imports torch's compiler,
    which takes longer than all the rest of a start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in MEMORY:
            name = func.__name__
            seen = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args)}
            new = any(tensor.untyped_storage().data_ptr() not in seen for tensor in _tensors(result))
            if new or "out" in kwargs or IN_PLACE.fullmatch(name):
                self.names.add(name)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
