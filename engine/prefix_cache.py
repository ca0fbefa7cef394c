"""PrefixCache: what a sequence about to start can take over, from blocks computed before or just now.

The pool knows which blocks hold what. This adds the blocks that a running sequence is still computing: a
younger sequence that shares them waits for them instead of computing them a second time, so the choices of
one request, and equal prompts that arrive together, are prefilled once.
"""

from __future__ import annotations

from engine.block_digests import reusable_blocks
from engine.block_pool import BlockPool
from engine.sequence import Sequence, Status


class PrefixCache:
    def __init__(self, pool: BlockPool, block_size: int, *, enabled: bool) -> None:
        self._pool = pool
        self._block_size = block_size
        self._enabled = enabled
        self._computing: dict[bytes, Sequence] = {}
        """Digest → the running sequence whose known tokens will fill that block."""

    def serves(self, sequence: Sequence) -> bool:
        """Whether a prefix is looked up for it at all."""
        return self._enabled and not sequence.needs_prompt_logprobs

    def is_deferred(self, sequence: Sequence) -> bool:
        """Whether an older sequence is still at work on what this one waits for. O(1)."""
        if sequence.deferred_to is None:
            return False
        owner, tokens = sequence.deferred_to
        if owner.status is Status.RUNNING and owner.num_computed < tokens:
            return True
        sequence.deferred_to = None
        return False

    def look_up(self, sequence: Sequence) -> list[int] | None:
        """Blocks that hold the longest known prefix; None where waiting for an older sequence gives more.

        Only older sequences are waited for. They do not wait for this one, directly or through others, so every
        wait ends.
        """
        if not self.serves(sequence):
            return []
        digests = sequence.digests(0, reusable_blocks(sequence.num_tokens, self._block_size))
        blocks = self._pool.find(digests)
        shared = len(blocks)
        owner = self._computing.get(digests[shared]) if shared < len(digests) else None
        if owner is None or owner.arrival >= sequence.arrival:
            return blocks
        while shared < len(digests) and self._computing.get(digests[shared]) is owner:
            shared += 1
        sequence.deferred_to = (owner, shared * self._block_size)
        return None

    def begin(self, sequence: Sequence) -> None:
        """A sequence was admitted; ``num_computed`` says how much of it was found."""
        sequence.num_published = sequence.num_computed // self._block_size
        if self._enabled:
            for digest in sequence.digests(sequence.num_published, sequence.num_tokens // self._block_size):
                self._computing[digest] = sequence

    def advance(self, sequence: Sequence) -> None:
        """More of a running sequence was computed: its full blocks become findable."""
        full = sequence.num_computed // self._block_size
        if not self._enabled or full == sequence.num_published:
            return
        for index, digest in enumerate(sequence.digests(sequence.num_published, full), sequence.num_published):
            self._pool.publish(sequence.block_table[index], digest)
            self._computing.pop(digest, None)
        sequence.num_published = full

    def withdraw(self, sequence: Sequence) -> None:
        """What a sequence's blocks hold is not to be found any more."""
        self._pool.withdraw(sequence.block_table)

    def end(self, sequence: Sequence) -> None:
        """A running sequence stops, for whatever reason, before its blocks are released."""
        if self._enabled:
            for digest in sequence.digests(sequence.num_published, sequence.num_tokens // self._block_size):
                self._computing.pop(digest, None)
