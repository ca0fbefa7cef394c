"""A queue in which callers take turns, against what has to hold for any history of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.grammars.fair_queue import FairQueue


@given(st.integers(1, 6), st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=40))
def test_nothing_is_lost_and_who_has_least_is_kept(most, history):
    queue, inside, number = FairQueue(most), [], 0
    for caller in history:
        if caller is None:
            if inside:
                taken = queue.take()
                mine = [each for each in inside if each[0] == taken[0]]
                assert taken == mine[0], "a caller's own come out in order"
                inside.remove(taken)
            continue
        number += 1
        inside.append((caller, number))
        if (out := queue.put(caller, (caller, number))) is not None:
            assert len(inside) == most + 1
            counts = Counter(each[0] for each in inside)
            assert counts[out[0]] == max(counts.values()), "who has most gives way"
            inside.remove(out)
        assert len(queue) == len(inside) <= most


def test_callers_take_turns():
    queue = FairQueue(9)
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        assert queue.put(item[0], item) is None
    assert [queue.take() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    with pytest.raises(KeyError):
        queue.take()
