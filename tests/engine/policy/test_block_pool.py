from __future__ import annotations

import pytest

from engine.block_digests import prompt_chain
from engine.block_pool import BlockPool, IntegrityError


def chain(count: int) -> list[bytes]:
    return prompt_chain(range(count + 1), "", block_size=1)


def published(pool: BlockPool, count: int) -> tuple[list[int], list[bytes]]:
    table, digests = pool.allocate(count), chain(count)
    for block, digest in zip(table, digests, strict=True):
        pool.publish(block, digest)
    return table, digests


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(3)
    with pytest.raises(ValueError, match="4 blocks asked for, 3 are free"):
        pool.allocate(4)
    assert pool.num_free == 3
    assert sorted(pool.allocate(3)) == [0, 1, 2]
    assert pool.num_free == 0 and pool.num_used == 3


def test_tail_is_evicted_before_head() -> None:
    pool = BlockPool(4)
    table, digests = published(pool, 4)
    pool.release(table)
    assert pool.find(digests) == table
    assert pool.allocate(1) == [table[3]]
    assert pool.find(digests) == table[:3]
    assert pool.allocate(1) == [table[2]]


def test_released_first_is_evicted_first() -> None:
    pool = BlockPool(2)
    (first, second), _ = published(pool, 2)
    pool.release([second])
    pool.release([first])
    assert pool.allocate(2) == [second, first]


def test_unpublished_blocks_are_evicted_before_findable_ones() -> None:
    pool = BlockPool(3)
    table, digests = published(pool, 2)
    scratch = pool.allocate(1)
    pool.release(table)
    pool.release(scratch)
    assert pool.allocate(1) == scratch
    assert pool.find(digests) == table


def test_sharing_takes_a_block_off_the_free_queue() -> None:
    pool = BlockPool(2)
    table, digests = published(pool, 2)
    pool.release(table)
    assert pool.count_free(table) == 2
    pool.share(pool.find(digests))
    pool.share(table)
    assert pool.num_free == 0 and pool.references(table[0]) == 2
    pool.release(table)
    assert pool.num_free == 0
    pool.release(table)
    assert pool.num_free == 2


def test_find_stops_at_the_first_gap() -> None:
    pool = BlockPool(4)
    table, digests = published(pool, 3)
    assert pool.find([digests[0], b"unknown", digests[2]]) == table[:1]


def test_the_first_writer_of_a_digest_stays() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    (digest,) = chain(1)
    pool.publish(first, digest)
    pool.publish(second, digest)
    assert pool.find([digest]) == [first] and pool.num_published == 1
    pool.release([second])
    pool.check_integrity([[first]])
    assert pool.allocate(1) == [second]
    assert pool.find([digest]) == [first]


def test_double_free_is_noticed() -> None:
    pool = BlockPool(1)
    table = pool.allocate(1)
    pool.release(table)
    with pytest.raises(IntegrityError, match="block 0 is released once too often"):
        pool.release(table)


def test_check_integrity_names_a_leaked_block() -> None:
    pool = BlockPool(4)
    table = pool.allocate(2)
    pool.check_integrity([table])
    with pytest.raises(IntegrityError, match=f"block {table[1]} has 1 references and is in 0 block tables"):
        pool.check_integrity([table[:1]])
    with pytest.raises(IntegrityError, match="has 1 references and is in 2 block tables"):
        pool.check_integrity([table, table])


def test_check_integrity_sees_an_unknown_block_and_a_wrong_index() -> None:
    pool = BlockPool(2)
    with pytest.raises(IntegrityError, match="1 blocks held and 2 free are not 2"):
        pool.check_integrity([[7]])
    table, digests = published(pool, 1)
    del pool._index[digests[0]]
    with pytest.raises(IntegrityError, match="not inverse"):
        pool.check_integrity([table])


def test_check_integrity_sees_a_used_block_in_the_free_queue() -> None:
    pool = BlockPool(2)
    table = pool.allocate(1)
    pool._free[table[0]] = None
    with pytest.raises(IntegrityError, match="has 1 references and is in the free queue"):
        pool.check_integrity([table])
