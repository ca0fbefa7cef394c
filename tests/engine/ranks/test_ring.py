"""Frames through the ring: in order, whole, to every reader, however they lie in it; and what is not one is refused."""

import os
import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ranks import ring as module
from engine.ranks.ring import RingError, RingReader, RingWriter


class Pair:
    """A writer and its readers in one thread: bells are a queue, and a writer that must wait has a reader read."""

    def __init__(self, readers: int, capacity: int) -> None:
        self.bells = [deque[int]() for _ in range(readers)]
        self.writer = RingWriter(readers, self.ring, self.wait, capacity)
        self.readers = [
            RingReader(os.dup(self.writer.descriptor), readers, number, self.bells[number].popleft)
            for number in range(readers)
        ]
        self.waits = 0

    def ring(self, written: int) -> None:
        for bell in self.bells:
            bell.append(written)

    def wait(self) -> None:
        self.waits += 1
        raise TimeoutError

    def close(self) -> None:
        for each in (self.writer, *self.readers):
            each.close()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3)), min_size=1, max_size=20),
)
def test_every_reader_gets_every_frame_whatever_its_size(readers, capacity, plan):
    """Frames are larger and smaller than the ring; readers keep up in different ways, in threads of their own."""
    frames = [bytes([number % 256]) * size for number, (size, _) in enumerate(plan)]
    bells = [os.pipe() for _ in range(readers)]

    def bell(written: int) -> None:
        for _, end in bells:
            os.write(end, written.to_bytes(8, "little"))

    def wait(number: int) -> int:
        return int.from_bytes(os.read(bells[number][0], 8), "little")

    def read(number: int) -> None:
        reader = RingReader(os.dup(writer.descriptor), readers, number, lambda: wait(number))
        found[number] = [reader.read() for _ in frames]
        reader.close()

    writer = RingWriter(readers, bell, lambda: None, capacity)
    found: dict[int, list[bytes]] = {}
    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    for frame in frames:
        writer.write(frame)
    for thread in threads:
        thread.join()
    writer.close()
    for ends in bells:
        for end in ends:
            os.close(end)
    assert [found[number] for number in range(readers)] == [frames] * readers


def test_a_writer_without_room_waits_and_may_give_up():
    pair = Pair(1, 32)
    pair.writer.write(b"x" * 24)
    with pytest.raises(TimeoutError):
        pair.writer.write(b"y")
    assert pair.waits == 1
    pair.close()


@pytest.mark.parametrize("size", [0, 65])
def test_frames_that_nobody_would_take_are_not_written(size, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 64)
    pair = Pair(1, 1000)
    with pytest.raises(RingError, match=f"a frame of {size} bytes"):
        pair.writer.write(bytes(size))
    assert not pair.bells[0]
    pair.close()


@pytest.mark.parametrize("length", [0, module.LARGEST + 1, 1 << 63])
def test_a_length_that_cannot_be_one_is_refused(length):
    pair = Pair(1, 64)
    pair.writer.write(b"abc")
    pair.writer._data[:8] = length.to_bytes(8, "little")
    with pytest.raises(RingError, match="frame of"):
        pair.readers[0].read()
    pair.close()


def test_bytes_beyond_the_length_are_refused():
    pair = Pair(1, 64)
    pair.writer.write(b"abc")
    pair.writer._data[:8] = (2).to_bytes(8, "little")
    with pytest.raises(RingError, match="11 bytes where a frame of 10 was to be read"):
        pair.readers[0].read()
    pair.close()


@pytest.mark.parametrize("written", [0, 65, 1 << 62])
def test_a_bell_that_tells_nonsense_is_refused(written):
    pair = Pair(1, 64)
    pair.bells[0].append(written)
    with pytest.raises(RingError, match="bytes to read in a ring of 64"):
        pair.readers[0].read()
    pair.close()


def test_a_cursor_that_is_ahead_of_the_writer_is_refused():
    pair = Pair(2, 64)
    pair.writer.write(b"abc")
    pair.readers[1]._cursors[8] = 1000
    with pytest.raises(RingError, match="bytes behind in a ring of 64"):
        pair.writer.write(b"abc")
    pair.close()


def test_memory_that_is_no_ring_is_refused():
    descriptor = os.memfd_create("x")
    os.ftruncate(descriptor, 64)
    with pytest.raises(RingError, match="64 bytes are no ring for 1 readers"):
        RingReader(descriptor, 1, 0, lambda: 0)
    os.close(descriptor)
    pair = Pair(1, 64)
    with pytest.raises(RingError, match="there is no reader 1 of 1"):
        RingReader(pair.writer.descriptor, 1, 1, lambda: 0)
    pair.close()


def test_the_memory_keeps_its_size():
    pair = Pair(1, 64)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(pair.writer.descriptor, size)
    pair.close()
