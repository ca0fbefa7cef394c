from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.cache_log import CacheLog
from engine.messages import CacheEvents


def test_it_tells_each_change_once() -> None:
    log = CacheLog()
    assert log.take() is None
    log.stored(b"a")
    log.stored(b"b")
    assert log.take() == CacheEvents(stored=[b"a", b"b"], evicted=[])
    log.evicted(b"a")
    assert log.take() == CacheEvents(stored=[], evicted=[b"a"])
    assert log.take() is None


def test_what_came_and_went_in_between_is_not_worth_telling() -> None:
    log = CacheLog()
    log.stored(b"a")
    log.evicted(b"a")
    assert log.take() is None
    log.stored(b"a")
    log.take()
    log.evicted(b"a")
    log.stored(b"a")
    assert log.take() is None


@given(st.lists(st.none() | st.integers(0, 5)))
def test_the_reader_knows_what_there_is(changes: list[int | None]) -> None:
    """Each number stores the block where it is not stored, and evicts it where it is; None is a reading."""
    log, stored, known = CacheLog(), set(), set()
    for change in [*changes, None]:
        if change is not None:
            digest = bytes([change])
            (log.evicted if digest in stored else log.stored)(digest)
            stored ^= {digest}
        elif events := log.take():
            assert not known & set(events.stored) and known >= set(events.evicted)
            known = known - set(events.evicted) | set(events.stored)
            assert known == stored
        else:
            assert known == stored
