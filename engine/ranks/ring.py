"""A ring of shared memory: frames from one process to several, each of which gets them all.

The memory has no name. It is handed down as a file descriptor, sealed against a change of size, and gone when its last
holder is. The ring carries a stream of bytes: a frame may be larger than it, and the writer then waits for readers.

How far the writer has come is told another way (``bell``, ``wait``): by a system call on either side, which also orders
the memory accesses of two processors.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable

CAPACITY = 1 << 20
"""Bytes of the ring."""
LARGEST = 1 << 28
"""Bytes of one frame."""
_LINE = 64
"""Bytes that each reader's cursor has to itself: a cache line."""
_LENGTH = 8


class RingError(RuntimeError):
    """What only a fault, or somebody else, could have written."""


class _Ring:
    """A cursor for each reader, the bytes it has read so far; then the data."""

    def __init__(self, descriptor: int, readers: int) -> None:
        """Raises RingError where the memory has no room for so many readers."""
        size, header = os.fstat(descriptor).st_size, _LINE * readers
        if readers < 1 or size <= header:
            raise RingError(f"{size} bytes are no ring for {readers} readers")
        self.descriptor = descriptor
        self._readers, self._capacity = readers, size - header
        self._memory = memoryview(mmap.mmap(descriptor, size))
        # One store or load of eight bytes each, which no other process sees half of.
        self._cursors = self._memory[:header].cast("Q")
        self._data = self._memory[header:]

    def close(self) -> None:
        for view in (self._cursors, self._data, self._memory):
            view.release()
        os.close(self.descriptor)


class RingWriter(_Ring):
    def __init__(
        self,
        readers: int,
        bell: Callable[[int], None],
        waiting: Callable[[], None],
        capacity: int = CAPACITY,
    ) -> None:
        """``bell(written)`` tells every reader how many bytes have been written so far.

        ``waiting`` is called now and then while there is no room; it may raise.
        """
        descriptor = os.memfd_create("penstock-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, _LINE * readers + capacity)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        super().__init__(descriptor, readers)
        self._bell, self._waiting = bell, waiting
        self._written = 0

    def write(self, frame: bytes) -> None:
        """Raises RingError where it is empty or too large."""
        if not 0 < len(frame) <= LARGEST:
            raise RingError(f"a frame of {len(frame)} bytes; 1 to {LARGEST} can be sent")
        rest = memoryview(len(frame).to_bytes(_LENGTH, "little") + frame)
        while rest:
            room = self._room()
            if not room:
                time.sleep(1e-4)
                self._waiting()
                continue
            chunk, rest = rest[:room], rest[room:]
            at = self._written % self._capacity
            until_end = min(len(chunk), self._capacity - at)
            self._data[at : at + until_end] = chunk[:until_end]
            self._data[: len(chunk) - until_end] = chunk[until_end:]
            self._written += len(chunk)
            self._bell(self._written)

    def _room(self) -> int:
        behind = [self._written - self._cursors[reader * _LINE // 8] for reader in range(self._readers)]
        if min(behind) < 0 or max(behind) > self._capacity:
            raise RingError(f"readers are {behind} bytes behind in a ring of {self._capacity}")
        return self._capacity - max(behind)


class RingReader(_Ring):
    def __init__(self, descriptor: int, readers: int, reader: int, wait: Callable[[], int]) -> None:
        """``wait`` returns what the writer's next call of ``bell`` told."""
        super().__init__(descriptor, readers)
        if not 0 <= reader < readers:
            raise RingError(f"there is no reader {reader} of {readers}")
        self._place, self._wait = reader * _LINE // 8, wait
        self._read = 0

    def read(self) -> bytes:
        """The next frame, once it is there. Raises RingError where it cannot be one."""
        found = bytearray()
        end = _LENGTH
        while len(found) < end:
            found += self._take()
            if len(found) >= _LENGTH:
                end = _LENGTH + int.from_bytes(found[:_LENGTH], "little")
            if not _LENGTH <= end <= _LENGTH + LARGEST:
                raise RingError(f"a frame of {end - _LENGTH} bytes; 1 to {LARGEST} can be sent")
        if len(found) != end or end == _LENGTH:
            raise RingError(f"{len(found)} bytes where a frame of {end} was to be read")
        return bytes(memoryview(found)[_LENGTH:])

    def _take(self) -> bytes:
        written = self._wait()
        more = written - self._read
        if not 0 < more <= self._capacity:
            raise RingError(f"{more} bytes to read in a ring of {self._capacity}")
        at = self._read % self._capacity
        until_end = min(more, self._capacity - at)
        taken = bytes(self._data[at : at + until_end]) + bytes(self._data[: more - until_end])
        self._read = self._cursors[self._place] = written
        return taken
