"""What counts against a gateway that is silent, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.lease import Lease

LOOK = 0.25


def test_silence_ends_it() -> None:
    lease = Lease(10, LOOK)
    assert [lease.passed(LOOK) for _ in range(41)] == [False] * 40 + [True]


def test_a_word_begins_it_anew() -> None:
    lease = Lease(10, LOOK)
    assert not any(lease.passed(LOOK) for _ in range(40))
    lease.heard()
    assert not any(lease.passed(LOOK) for _ in range(40))
    assert lease.passed(LOOK)


@given(st.lists(st.floats(0, 1e9), max_size=20))
def test_time_in_which_this_process_did_not_run_is_not_held_against_the_gateway(gaps: list[float]) -> None:
    lease = Lease(10, LOOK)
    assert not any(lease.passed(gap) for gap in gaps), "twenty looks are five seconds, or ten at most"
