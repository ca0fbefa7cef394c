"""Kernels in another process: under an emulator, or where memory that is not theirs must not be touched."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from kernels.providers.cpu.library import Library

FIND, CALL, LAUNCH = range(3)
"""As in ``harness.c``."""


class RemoteLibrary(Library):
    """A library that ``harness.c`` has loaded.

    Providers use it as they use any other. A launch sends the memory that the launch names as its tensors, has the
    pointers in the arguments changed to where that lies there, and takes back what the kernel made of it. A pointer
    into memory that the launch did not name is an error.
    """

    def __init__(self, command: list[str], variant: str) -> None:
        self.variant = variant
        self.launches = 0
        self._command = command
        self._names: list[str] = []
        self._recording = None
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, close() closes it

    def kernel(self, name: str) -> int:
        self._ask(name, FIND)
        if not self._words(1)[0]:
            raise AttributeError(f"there is no kernel penstock_{name}")
        if name not in self._names:
            self._names.append(name)
        return 1 + self._names.index(name)

    def function(self, name: str) -> Callable[[], int]:
        def call() -> int:
            self._ask(name, CALL)
            return self._words(1)[0]

        self.kernel(name)
        return call

    def launch(
        self, kernel: int, arguments: ctypes.Structure, tensors: tuple[Tensor, ...], tokens: int, sequences: int = 0
    ) -> None:
        regions = _regions(tensors)
        starts = [start for start, _ in regions]
        pointers = []
        for offset, field, address in _pointers(arguments):
            at = bisect_right(starts, address) - 1
            if at < 0 or address >= starts[at] + max(1, regions[at][1]):
                raise ValueError(f"the tensors of {self._names[kernel - 1]} do not cover what {field} points to")
            pointers += [offset, at, address - starts[at]]
        content = bytes(arguments)
        counts = tokens, sequences, torch.get_num_threads(), len(content), len(pointers) // 3, len(regions)
        parts = [_packed(*counts), content, _packed(*pointers)]
        for start, size in regions:
            parts += [_packed(size), ctypes.string_at(start, size)]
        self._ask(self._names[kernel - 1], LAUNCH, b"".join(parts))
        for start, size in regions:
            ctypes.memmove(start, self._take(size), size)
        self.launches += 1

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def _ask(self, name: str, what: int, rest: bytes = b"") -> None:
        if self._process is None:
            # Where threads outnumber cores, one that waits must not hold up those it waits for.
            environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        self._asked = name
        try:
            self._process.stdin.write(name.encode().ljust(64, b"\0") + _packed(what) + rest)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _take(self, size: int) -> bytes:
        content = self._process.stdout.read(size)
        if len(content) < size:
            self._fail()
        return content

    def _fail(self) -> None:
        """Raise what ended the harness; the next request starts another."""
        self._process.stdin.close()
        self._process.stdout.close()
        status, self._process = self._process.wait(), None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        self._errors.seek(0)
        self._errors.truncate()
        raise RuntimeError(f"{self._asked} of the {self.variant} build ended with status {status}: {said}")

    def _words(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self._take(8 * count))


def _packed(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}q", *words)


def _regions(tensors: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Address and bytes of the memory that tensors lie in, in rising order."""
    storages = {(storage.data_ptr(), storage.nbytes()) for storage in (each.untyped_storage() for each in tensors)}
    regions = sorted(storages)
    for (start, size), (following, _) in pairwise(regions):
        assert start + size <= following, "tensors whose memory overlaps"
    return regions


def _pointers(arguments: ctypes.Structure, at: int = 0, path: str = "") -> Iterator[tuple[int, str, int]]:
    """Offset, name and value of every pointer that is not null."""
    for name, kind in arguments._fields_:
        offset, value = at + getattr(type(arguments), name).offset, getattr(arguments, name)
        if issubclass(kind, ctypes.Structure):
            yield from _pointers(value, offset, f"{path}{name}.")
        elif issubclass(kind, ctypes.c_void_p) and value:
            yield offset, path + name, value


def harness(folder: Path, compiler: str, sources: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compile the process that loads a library."""
    target = folder / "harness"
    source = Path(__file__).with_name("harness.c")
    command = [compiler, "-O1", "-Wall", "-Werror", *flags, f"-I{sources}", str(source), "-o", str(target), "-ldl"]
    subprocess.run(command, check=True)
    return target
