from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.replicas.router import ReplicaSnapshot, choose


def test_no_replica_is_no_choice() -> None:
    assert choose([]) is None


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 5), min_size=1))
def test_the_least_loaded_and_of_equals_the_first(loads: dict[int, int]) -> None:
    chosen = choose([ReplicaSnapshot(replica, load) for replica, load in loads.items()])
    assert chosen == min(replica for replica, load in loads.items() if load == min(loads.values()))
