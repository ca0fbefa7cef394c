from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.replicas.prefix_index import PrefixIndex

A, B, C, D = (bytes([n]) * 16 for n in range(4))


def test_a_match_is_the_run_from_the_head_without_a_gap() -> None:
    index = PrefixIndex()
    index.update(0, [A, B, C], [])
    index.update(1, [A, C], [])
    index.update(2, [B, C], [])
    assert index.matches([A, B, C, D]) == {0: 3, 1: 1}
    assert index.matches([D]) == index.matches([]) == {}
    assert index.matches([A, C]) == {0: 2, 1: 2}
    index.update(0, [], [A])
    assert index.matches([A, B, C]) == {1: 1}


def test_what_is_expected_counts_until_everybody_has_forgotten_it() -> None:
    index = PrefixIndex()
    index.update(0, [A], [])
    index.expect(0, [A, B])
    index.expect(0, [A, B])
    index.expect(1, [A])
    assert index.matches([A, B]) == {0: 2, 1: 1}
    index.forget(0, [A, B])
    index.forget(1, [A])
    assert index.matches([A, B]) == {0: 2}
    index.forget(0, [A, B])
    assert index.matches([A, B]) == {0: 1}


def test_a_lost_replica_holds_nothing() -> None:
    index = PrefixIndex()
    index.update(0, [A, B], [])
    index.update(1, [A], [])
    index.drop(0)
    assert index.matches([A, B]) == {1: 1}
    assert (index.held(0), index.held(1), len(index)) == (0, 1, 1)


def test_a_chain_is_forgotten_from_its_tail() -> None:
    index = PrefixIndex(capacity=3)
    index.update(0, [A, B, C], [])
    index.update(0, [D], [])
    assert index.matches([A, B, C]) == {0: 2}
    # Asked for, A and B are younger than D now.
    index.update(0, [C], [])
    assert index.matches([D]) == {}
    assert index.matches([A, B]) == {0: 2}


def test_the_last_point_of_many_ways_is_where_sharing_ends() -> None:
    index = PrefixIndex()
    index.update(0, [A, B, C], [])
    for chain in ([A, D], [A, B, D], [A, B], [A, B, C, D]):
        index.branch(chain, max(index.matches(chain).values()))
    index.branch([D], 0)
    assert [index.shared([A, B, C, D], ways) for ways in (1, 2, 3)] == [3, 2, 0]
    assert index.shared([A, D], 1) == 1
    index.update(0, [], [B])
    assert index.shared([A, B, C], 2) == 0
    index.update(0, [B], [])
    assert index.shared([A, B, C], 2) == 0, "a block that was gone begins anew"


digests = st.integers(0, 6).map(lambda n: bytes([n]) * 16)
replicas = st.integers(0, 3)
chains = st.lists(digests, max_size=6, unique=True)


class Machine(RuleBasedStateMachine):
    """Against sets that do the same slowly. Without room for everything, only less may be known."""

    def __init__(self) -> None:
        super().__init__()
        self.roomy, self.narrow = PrefixIndex(), PrefixIndex(capacity=5)
        self.held: set[tuple[int, bytes]] = set()
        self.expected: Counter[tuple[int, bytes]] = Counter()
        self.expectations: list[tuple[int, list[bytes]]] = []

    @rule(replica=replicas, stored=chains, evicted=chains)
    def update(self, replica: int, stored: list[bytes], evicted: list[bytes]) -> None:
        for index in (self.roomy, self.narrow):
            index.update(replica, stored, evicted)
        self.held -= {(replica, digest) for digest in evicted}
        self.held |= {(replica, digest) for digest in stored}

    @rule(replica=replicas, chain=chains)
    def expect(self, replica: int, chain: list[bytes]) -> None:
        for index in (self.roomy, self.narrow):
            index.expect(replica, chain)
        self.expectations.append((replica, chain))

    @rule(which=st.integers(0, 99))
    def forget(self, which: int) -> None:
        if self.expectations:
            replica, chain = self.expectations.pop(which % len(self.expectations))
            for index in (self.roomy, self.narrow):
                index.forget(replica, chain)

    @rule(replica=replicas)
    def drop(self, replica: int) -> None:
        for index in (self.roomy, self.narrow):
            index.drop(replica)
        self.held = {(holder, digest) for holder, digest in self.held if holder != replica}

    @rule(chain=chains)
    def match(self, chain: list[bytes]) -> None:
        known = self.held | {(replica, digest) for replica, each in self.expectations for digest in each}
        expected = {}
        for replica in range(4):
            depth = 0
            while depth < len(chain) and (replica, chain[depth]) in known:
                depth += 1
            if depth:
                expected[replica] = depth
        assert self.roomy.matches(chain) == expected
        for index in (self.roomy, self.narrow):
            index.branch(chain, max(index.matches(chain).values(), default=0))
        assert all(expected[replica] >= depth for replica, depth in self.narrow.matches(chain).items())

    @invariant()
    def counts(self) -> None:
        assert len(self.roomy) == len({digest for _, digest in self.held})
        assert [self.roomy.held(replica) for replica in range(4)] == [
            sum(holder == replica for holder, _ in self.held) for replica in range(4)
        ]
        assert len(self.narrow) <= 5
        for index in (self.roomy, self.narrow):
            assert index._branches.keys() <= index._holders.keys()
        assert sum(self.narrow.held(replica) for replica in range(4)) >= len(self.narrow)

    def teardown(self) -> None:
        while self.expectations:
            self.forget(0)
        assert not self.roomy._expected and not self.narrow._expected


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30)
