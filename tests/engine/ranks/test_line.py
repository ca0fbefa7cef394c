"""The socket between engine and rank: whole frames, bells, and what is left of a rank that is gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ranks import line as module
from engine.ranks.line import EngineLine, RankLine
from engine.ranks.ring import LARGEST, RingError


@pytest.fixture
def ends() -> Iterator[tuple[EngineLine, RankLine]]:
    ours, theirs = socket.socketpair()
    engine, rank = EngineLine(ours), RankLine(theirs.detach())
    yield engine, rank
    engine.close()
    rank._socket.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50))
def test_frames_come_whole_however_the_stream_is_cut(frames, cut) -> None:
    ours, theirs = socket.socketpair()
    engine, found = EngineLine(ours), []
    stream = b"".join(len(frame).to_bytes(8, "little") + frame for frame in frames)
    for start in range(0, len(stream), cut):
        theirs.sendall(stream[start : start + cut])
        engine.collect()
        while (frame := engine.frame()) is not None:
            found.append(frame)
    assert found == frames and not engine.ended
    theirs.close()
    engine.collect()
    assert engine.ended and engine.frame() is None
    engine.close()


@pytest.mark.parametrize("length", [0, LARGEST + 1])
def test_a_length_that_cannot_be_one_is_refused(ends, length) -> None:
    engine, rank = ends
    rank._socket.sendall(length.to_bytes(8, "little"))
    engine.collect()
    with pytest.raises(RingError, match=f"a frame of {length} bytes"):
        engine.frame()


def test_what_a_rank_said_before_it_went_counts(ends) -> None:
    engine, rank = ends
    rank.send(b"last words")
    rank._socket.shutdown(socket.SHUT_RDWR)
    engine.collect()
    assert engine.ended and engine.frame() == b"last words"
    engine.ring(7)  # Nobody hears it, and nothing is raised.


def test_bells_come_in_order_and_end_with_the_engine(ends) -> None:
    engine, rank = ends
    for written in (3, 8, 1 << 40):
        engine.ring(written)
    assert [rank.wait() for _ in range(3)] == [3, 8, 1 << 40]
    engine.close()
    with pytest.raises(EOFError, match="the engine is gone"):
        rank.wait()


def test_chores_are_done_until_there_are_none_or_the_bell_rings(ends, monkeypatch) -> None:
    engine, rank = ends
    monkeypatch.setattr(module, "_IDLE", 0.0)
    done = []

    def chore() -> bool:
        done.append(len(done))
        if len(done) == 5:
            engine.ring(9)
        return True

    rank.chore = chore
    assert rank.wait() == 9 and len(done) == 5
    rank.chore = lambda: bool(done.clear())
    threading.Timer(0.05, engine.ring, [10]).start()
    assert rank.wait() == 10 and done == []
