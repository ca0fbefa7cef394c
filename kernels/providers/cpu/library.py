"""The compiled kernels: how one is called, and how a sequence of calls is recorded and replayed.

A kernel is a C function of its arguments (a structure, mirrored here by a ctypes one in the op's module), of what
changes from step to step, and of the thread it runs on; see ``native/team.h``. A call from Python costs some
microseconds, as much as a small kernel itself. A ``Program`` pays that once: it holds the structures of a whole
forward pass, recorded over buffers that stay where they are, and runs them in one call for any number of rows.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The kernels' numbers of the dtypes that tensors have, as in ``native/numbers.h``."""


class Step(ctypes.Structure):
    """What changes from step to step."""

    _fields_ = [("tokens", ctypes.c_int32), ("sequences", ctypes.c_int32)]


class Launch(ctypes.Structure):
    _fields_ = [("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p), ("by_sequence", ctypes.c_int32)]


class Library:
    """One build of the kernels, loaded."""

    def __init__(self, path: Path, variant: str) -> None:
        """Raises OSError where the file cannot be loaded here."""
        self.variant = variant
        self._library = ctypes.CDLL(str(path))
        self._run = self._library.penstock_run
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32]
        self._run.restype = None
        self._recording: Program | None = None
        self._names: dict[int, str] = {}

    def kernel(self, name: str) -> int:
        """Address of the kernel ``penstock_<name>``."""
        address = ctypes.cast(getattr(self._library, f"penstock_{name}"), ctypes.c_void_p).value
        assert address is not None
        self._names[address] = name
        return address

    def name(self, kernel: int) -> str:
        """Of a kernel, by its address."""
        return self._names[kernel]

    def function(self, name: str) -> Any:
        """A plain C function ``penstock_<name>`` of the library, for what is no kernel."""
        return getattr(self._library, f"penstock_{name}")

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for a result. While recording, it is the program's and lasts as long as a tensor looks at it."""
        if self._recording is not None:
            return self._recording.empty(shape, dtype)
        return torch.empty(shape, dtype=dtype)

    def launch(
        self, kernel: int, arguments: ctypes.Structure, tensors: tuple[Tensor, ...], tokens: int, sequences: int = 0
    ) -> None:
        """Run a kernel, or add it to the program that is being recorded.

        ``tensors`` are all that the arguments point into.
        """
        if self._recording is not None:
            self._recording.add(kernel, arguments, tensors)
            return
        launch = Launch(kernel, ctypes.addressof(arguments), False)
        step = Step(tokens, sequences)
        self._run(ctypes.byref(launch), 1, ctypes.byref(step), torch.get_num_threads())

    def rows_are_sequences(self) -> None:
        """What is recorded from now on has a row for each sequence of a step, not for each token."""
        if self._recording is not None:
            self._recording.by_sequence = True

    def outside(self, compute: Callable[..., None], shape: tuple[int, ...], inputs: tuple[Tensor, ...]) -> Tensor:
        """A result of something that is no kernel: ``compute(rows, out, *inputs)`` fills its first rows.

        It has the dtype of the first input. While recording, the call is added to the program, and made between the
        kernels of every replay.
        """
        out = self.empty(shape, inputs[0].dtype)
        if self._recording is not None:
            self._recording.add_outside(compute, (out, *inputs))
        else:
            compute(len(out), out, *inputs)
        return out

    def run(self, launches: ctypes.Array[Launch], step: Step) -> None:
        self._run(launches, len(launches), ctypes.byref(step), torch.get_num_threads())

    def timed(self, launches: ctypes.Array[Launch], step: Step) -> list[float]:
        """Like ``run``, but each launch by itself: its seconds, with some microseconds for the call."""
        seconds = []
        for launch in launches:
            began = time.perf_counter()
            self._run(ctypes.byref(launch), 1, ctypes.byref(step), torch.get_num_threads())
            seconds.append(time.perf_counter() - began)
        return seconds

    @contextmanager
    def record(self) -> Iterator[Program]:
        """Calls of kernels inside are recorded in the program, and not run."""
        assert self._recording is None, "recordings do not nest"
        self._recording = program = Program(self)
        try:
            yield program
        finally:
            self._recording = None


class Timing(NamedTuple):
    """One launch of a program."""

    kernel: str
    arguments: ctypes.Structure
    rows: int
    seconds: float


class _Call(NamedTuple):
    kernel: int
    arguments: ctypes.Structure
    by_sequence: bool


class _Outside(NamedTuple):
    """What is done between kernels."""

    compute: Callable[..., None]
    tensors: tuple[Tensor, ...]
    by_sequence: bool


class Program:
    """Recorded launches, what is done between them, and the memory of what they hand from one to the next."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.by_sequence = False
        """Whether the rows of what is recorded from now on are the step's sequences, not its tokens."""
        self._calls: list[_Call | _Outside] = []
        self._kept: list[Tensor] = []
        self._memory: list[Tensor] = []
        self._free: dict[int, list[Tensor]] = {}
        self._parts: list[ctypes.Array[Launch] | _Outside] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, kernel: int, arguments: ctypes.Structure, tensors: tuple[Tensor, ...]) -> None:
        self._calls.append(_Call(kernel, arguments, self.by_sequence))
        own = {memory.data_ptr(): memory.nbytes for memory in self._memory}
        self._kept.extend(each for each in tensors if not _within(each, own))

    def add_outside(self, compute: Callable[..., None], tensors: tuple[Tensor, ...]) -> None:
        self._calls.append(_Outside(compute, tuple(self._alias(tensor) for tensor in tensors), self.by_sequence))

    def _alias(self, tensor: Tensor) -> Tensor:
        """The same elements; where they lie in the program's own memory, without keeping that from later results."""
        for memory in self._memory:
            offset = tensor.data_ptr() - memory.data_ptr()
            if 0 <= offset < memory.nbytes:
                words = memory.view(tensor.dtype)
                return words.as_strided(tensor.shape, tensor.stride(), offset // tensor.itemsize)
        return tensor

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor in memory that later results take over once nothing refers to it.

        A result that the model has let go of is read by no later launch, so the next result may stand in its place:
        layers share a few buffers, and these stay in the processor's cache.
        """
        size = max(1, torch.Size(shape).numel() * dtype.itemsize)
        if not self._free.setdefault(size, []):
            self._memory.append(torch.empty(size, dtype=torch.uint8))
            self._free[size].append(self._memory[-1])
        memory = self._free[size].pop()
        # The tensor's storage holds the lease, and views hold the storage: the lease dies with the last of them.
        lease = (ctypes.c_char * size).from_address(memory.data_ptr())
        weakref.finalize(lease, self._free[size].append, memory)
        return torch.frombuffer(lease, dtype=dtype).view(shape)

    def run(self, tokens: int, sequences: int) -> None:
        """Replay every launch on the first rows of the buffers it was recorded over."""
        step = Step(tokens, sequences)
        for part in self._joined():
            if isinstance(part, ctypes.Array):
                self._library.run(part, step)
            else:
                part.compute(sequences if part.by_sequence else tokens, *part.tensors)

    def timed(self, tokens: int, sequences: int) -> list[Timing]:
        """The kernels of the same, launch by launch, which is slower."""
        step, seconds = Step(tokens, sequences), list[float]()
        for part in self._joined():
            if isinstance(part, ctypes.Array):
                seconds += self._library.timed(part, step)
            else:
                part.compute(sequences if part.by_sequence else tokens, *part.tensors)
        calls = [call for call in self._calls if isinstance(call, _Call)]
        return [
            Timing(self._library.name(call.kernel), call.arguments, sequences if call.by_sequence else tokens, each)
            for call, each in zip(calls, seconds, strict=True)
        ]

    def _joined(self) -> list[ctypes.Array[Launch] | _Outside]:
        """Neighbouring launches in one array each; made once."""
        if self._parts is not None:
            return self._parts
        self._parts = []
        launches: list[Launch] = []
        for call in [*self._calls, None]:
            if isinstance(call, _Call):
                launches.append(Launch(call.kernel, ctypes.addressof(call.arguments), call.by_sequence))
                continue
            if launches:
                self._parts.append((Launch * len(launches))(*launches))
                launches = []
            if call is not None:
                self._parts.append(call)
        return self._parts


def _within(tensor: Tensor, memory: dict[int, int]) -> bool:
    return any(start <= tensor.data_ptr() < start + size for start, size in memory.items())
