"""BlockPool: which KV-cache blocks are in use, by how many sequences, and what the free ones still hold.

A block is a number; the tensors behind it live in the worker. A full block that has been computed can be
published under a digest of everything before and in it (``engine/block_digests.py``). A published block stays
findable after its last sequence has let go of it, until the free queue hands it out again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from engine.cache_log import CacheLog


class IntegrityError(RuntimeError):
    """The pool and the block tables disagree: a leak, a double free or a wrong index. Always a bug of ours."""


class BlockPool:
    """Reference counts, prefix index and free queue over ``num_blocks`` blocks; blocks are 0 … num_blocks - 1."""

    def __init__(self, num_blocks: int, log: CacheLog | None = None) -> None:
        """``log`` is told what can be found and what no longer can."""
        self.num_blocks = num_blocks
        self._log = log
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        """In eviction order: the first is handed out next."""
        self._index: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        """Of the published blocks; the inverse of the index."""

    @property
    def num_free(self) -> int:
        """Blocks that no sequence refers to, findable ones included."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def num_published(self) -> int:
        return len(self._index)

    def references(self, block: int) -> int:
        return self._references[block]

    def is_published(self, block: int) -> bool:
        """Whether it can be found by what it holds."""
        return block in self._digests

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` blocks off the free queue, all or none; what they held can no longer be found.

        Raises ValueError, and takes nothing, where fewer are free: the caller asks ``num_free`` first.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks asked for, {len(self._free)} are free")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        self.withdraw(blocks)
        for block in blocks:
            self._references[block] = 1
        return blocks

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the longest published run of a chain, from its start. Takes no reference."""
        blocks = []
        for digest in digests:
            block = self._index.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of these blocks would leave the free queue if they were shared."""
        return sum(self._references[block] == 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Take one more reference on each of these blocks, which ``find`` has returned."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def release(self, table: Sequence[int]) -> None:
        """Give back one reference on each block of a sequence, listed from its head to its tail.

        The tail goes to the free queue first and is therefore evicted first: a head is worth more, since it
        can be shared without its tail but not the other way round. What was never published cannot be found
        again and goes before everything else.
        """
        for block in reversed(table):
            if self._references[block] == 0:
                raise IntegrityError(f"block {block} is released once too often")
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._digests:
                    self._free.move_to_end(block, last=False)

    def publish(self, block: int, digest: bytes) -> None:
        """Make a full, computed block findable. Where another block holds the same already, that one stays."""
        if digest not in self._index:
            self._index[digest] = block
            self._digests[block] = digest
            if self._log is not None:
                self._log.stored(digest)

    def withdraw(self, blocks: Iterable[int]) -> None:
        """What these blocks hold can no longer be found; who refers to them keeps them."""
        for block in blocks:
            digest = self._digests.pop(block, None)
            if digest is not None:
                del self._index[digest]
                if self._log is not None:
                    self._log.evicted(digest)

    def withdraw_all(self) -> None:
        """Nothing that is held now can be found any more."""
        self.withdraw(list(self._digests))

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Compare the pool with the block tables of all running sequences; raises IntegrityError."""
        held = Counter(block for table in tables for block in table)
        for block, references in enumerate(self._references):
            if references != held[block]:
                raise IntegrityError(f"block {block} has {references} references and is in {held[block]} block tables")
            if (references == 0) != (block in self._free):
                where = "in" if block in self._free else "not in"
                raise IntegrityError(f"block {block} has {references} references and is {where} the free queue")
        if len(held) + len(self._free) != self.num_blocks:
            raise IntegrityError(f"{len(held)} blocks held and {len(self._free)} free are not {self.num_blocks}")
        if self._digests != {block: digest for digest, block in self._index.items()}:
            raise IntegrityError("the prefix index and the digests of the blocks are not inverse to each other")
