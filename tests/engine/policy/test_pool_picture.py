"""The picture of the block pool against the pool itself, as sequences come, share, go and are found again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.block_pool import BlockPool
from engine.pool_picture import EMPTY, FIRST_OWNER, KEPT, MOST_SEQUENCES, OWNERS, SHARED, draw
from observability.records import EngineState

STATE = EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8)


def sequence(arrival: int, table: list[int]) -> Any:
    return SimpleNamespace(arrival=arrival, block_table=table, num_prompt=9, num_output=2, num_found=12)


def test_cells_tell_owned_shared_kept_and_empty_blocks() -> None:
    pool = BlockPool(8)
    head, kept, own, other = pool.allocate(4)
    for block, digest in ((head, b"a"), (kept, b"b")):
        pool.publish(block, digest)
    pool.share([head])
    pool.release([kept])
    picture = draw(pool, [sequence(5, [head, own]), sequence(1, [head, other])], STATE, 8)
    assert picture.stride == 1
    assert list(picture.cells) == [SHARED, KEPT, FIRST_OWNER + 5, FIRST_OWNER + 1, EMPTY, EMPTY, EMPTY, EMPTY]
    first = picture.sequences[0]
    assert [each.owner - FIRST_OWNER for each in picture.sequences] == [1, 5], "the oldest first"
    assert (first.prompt_tokens, first.cached_tokens, first.output_tokens, first.blocks) == (9, 9, 2, 2)


@given(st.integers(1, 300), st.integers(1, 80), st.data())
def test_a_picture_is_bounded_and_shows_every_so_many_th_block(blocks: int, most: int, data: st.DataObject) -> None:
    pool = BlockPool(blocks)
    taken = data.draw(st.integers(0, blocks))
    table = pool.allocate(taken)
    picture = draw(pool, [sequence(2 * OWNERS + 7, table)], STATE, most)
    assert len(picture.cells) <= most
    shown = range(0, blocks, picture.stride)
    assert list(picture.cells) == [FIRST_OWNER + 7 if block in table else EMPTY for block in shown]


def test_only_so_many_sequences_are_told_of_one_by_one() -> None:
    pool = BlockPool(4)
    picture = draw(pool, [sequence(at, []) for at in range(MOST_SEQUENCES + 9)], STATE, 4)
    assert len(picture.sequences) == MOST_SEQUENCES


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 cells"):
        draw(BlockPool(4), [], STATE, 0)
