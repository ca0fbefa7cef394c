"""BlockTables: which blocks each running sequence has, as its own list and as a row of the array that batches are cut
from. Blocks come from the pool and go back to it here alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.arrays import IntArray
from engine.block_pool import BlockPool
from engine.sequence import Sequence


class BlockTables:
    def __init__(self, pool: BlockPool, *, block_size: int, max_num_seqs: int, max_model_len: int) -> None:
        """For as many sequences at once, each of that many tokens at most."""
        self._pool = pool
        self._block_size = block_size
        self._free_rows = list(range(max_num_seqs))
        self.array: IntArray = np.zeros((max_num_seqs, self._blocks_for(max_model_len)), np.int32)
        """Each sequence's blocks in its ``table_row``; what a shorter one leaves of a row means nothing."""

    def fits(self, sequence: Sequence, found: list[int]) -> bool:
        """Whether there are blocks for all its known tokens, where those found hold the first of them."""
        fresh = self._blocks_for(sequence.num_tokens) - len(found)
        return fresh <= self._pool.num_free - self._pool.count_free(found)

    def open(self, sequence: Sequence, found: list[int]) -> None:
        """Give a sequence a table that begins with blocks which ``BlockPool.find`` has just returned."""
        self._pool.share(found)
        sequence.table_row = self._free_rows.pop()
        self._append(sequence, found)

    def room(self, sequence: Sequence) -> int:
        """Tokens that the sequence could compute next without anybody giving up a block."""
        blocks = len(sequence.block_table) + self._pool.num_free
        return blocks * self._block_size - sequence.num_computed

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Take the blocks that its next ``tokens`` tokens need, of which there is ``room`` for so many."""
        missing = self._blocks_for(sequence.num_computed + tokens) - len(sequence.block_table)
        if missing > 0:
            self._append(sequence, self._pool.allocate(missing))

    def extend_all(self, sequences: Iterable[Sequence]) -> bool:
        """Take what each needs for one token after those it has; nothing, and False, where there is not that much."""
        full = [each for each in sequences if each.num_tokens == len(each.block_table) * self._block_size]
        if len(full) > self._pool.num_free:
            return False
        for sequence, block in zip(full, self._pool.allocate(len(full)), strict=True):
            self._append(sequence, [block])
        return True

    def close(self, sequence: Sequence) -> None:
        """Give back a sequence's blocks and its row."""
        self._pool.release(sequence.block_table)
        sequence.block_table = []
        self._free_rows.append(sequence.table_row)
        sequence.table_row = -1

    def _append(self, sequence: Sequence, blocks: list[int]) -> None:
        held = len(sequence.block_table)
        self.array[sequence.table_row, held : held + len(blocks)] = blocks
        sequence.block_table += blocks

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)
