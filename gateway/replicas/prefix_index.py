"""PrefixIndex: which replica's prefix cache holds which block, as far as the gateway knows.

Two sources: what engines say of their caches, and what has been sent to one and is not computed yet, so that prompts
which arrive together and share a beginning go together. An entry that is missing or wrong costs a prompt's computation
and nothing else.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

CAPACITY = 1 << 18
"""Blocks known at a time. An entry takes about 150 bytes."""


class PrefixIndex:
    """Replicas are small numbers. With each call ``O(blocks)``, but for ``drop``, which looks at all that is known."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._holders: OrderedDict[bytes, int] = OrderedDict()
        """Digest → replicas that hold it, one bit each; those not heard of or asked for the longest come first."""
        self._expected: dict[bytes, Counter[int]] = {}
        """Digest → replicas that are about to compute it, and how many choices wait there for it."""
        self._held: Counter[int] = Counter()
        self._branches: Counter[bytes] = Counter()
        """Of blocks that are held somewhere: in how many new ways prompts have gone on after them."""

    def __len__(self) -> int:
        """Blocks that engines have told of."""
        return len(self._holders)

    def held(self, replica: int) -> int:
        """How many of them this replica holds."""
        return self._held[replica]

    def update(self, replica: int, stored: Sequence[bytes], evicted: Sequence[bytes]) -> None:
        """An engine's cache has changed."""
        bit = 1 << replica
        for digest in evicted:
            holders = self._holders.get(digest, 0)
            if holders & bit:
                self._held[replica] -= 1
                self._set(digest, holders & ~bit)
        for digest in reversed(stored):
            holders = self._holders.get(digest, 0)
            self._held[replica] += not holders & bit
            self._holders[digest] = holders | bit
            self._holders.move_to_end(digest)
        while len(self._holders) > self._capacity:
            digest, holders = self._holders.popitem(last=False)
            self._held.subtract(_bits(holders))
            self._branches.pop(digest, None)

    def expect(self, replica: int, digests: Iterable[bytes]) -> None:
        """A choice was sent there that will have these blocks computed."""
        for digest in digests:
            self._expected.setdefault(digest, Counter())[replica] += 1

    def forget(self, replica: int, digests: Iterable[bytes]) -> None:
        """Undoes one call of ``expect``: the choice's first token has arrived, or it has left."""
        for digest in digests:
            waiting = self._expected[digest]
            waiting[replica] -= 1
            if not waiting[replica]:
                del waiting[replica]
                if not waiting:
                    del self._expected[digest]

    def drop(self, replica: int) -> None:
        """The replica's engine is gone, and with it what it held. What is expected of it is for ``forget``."""
        bit = 1 << replica
        for digest in [digest for digest, holders in self._holders.items() if holders & bit]:
            self._set(digest, self._holders[digest] & ~bit)
        del self._held[replica]

    def matches(self, digests: Sequence[bytes]) -> dict[int, int]:
        """Replica → how many blocks it has of this chain, from its head without a gap; those with none are left out."""
        found: dict[int, int] = {}
        alive = depth = 0
        for digest in digests:
            here = self._holders.get(digest, 0)
            for replica in self._expected.get(digest, ()):
                here |= 1 << replica
            if not depth:
                alive = here
            elif left := alive & ~here:
                found |= dict.fromkeys(_bits(left), depth)
                alive &= here
            if not alive:
                break
            depth += 1
        found |= dict.fromkeys(_bits(alive), depth)
        self._touch(digests[:depth])
        return found

    def branch(self, digests: Sequence[bytes], depth: int) -> None:
        """A prompt has arrived of which ``depth`` blocks are known somewhere, and no more."""
        if depth and digests[depth - 1] in self._holders:
            self._branches[digests[depth - 1]] += 1

    def shared(self, digests: Sequence[bytes], branches: int) -> int:
        """How many blocks of this chain lie before a point from which prompts have gone on in so many ways."""
        for depth in range(len(digests), 0, -1):
            if self._branches.get(digests[depth - 1], 0) >= branches:
                return depth
        return 0

    def _touch(self, digests: Sequence[bytes]) -> None:
        """Tail first, so that a chain is forgotten from its tail: without its head the rest cannot be found."""
        for digest in reversed(digests):
            if digest in self._holders:
                self._holders.move_to_end(digest)

    def _set(self, digest: bytes, holders: int) -> None:
        if holders:
            self._holders[digest] = holders
        else:
            del self._holders[digest]
            self._branches.pop(digest, None)


def _bits(number: int) -> list[int]:
    """Places of the bits that are set."""
    return [place for place in range(number.bit_length()) if number >> place & 1]
