"""The blocks of running sequences: the lists, the array and the pool say the same at every moment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.block_pool import BlockPool
from engine.block_tables import BlockTables
from engine.messages import Start
from engine.sampling_params import SamplingParams
from engine.sequence import Sequence

BLOCK_SIZE = 4
LONGEST = 24


def sequence_of(tokens: int) -> Sequence:
    start = Start(id="a", attempt=0, prompt=[1] * tokens, params=SamplingParams(max_tokens=LONGEST - tokens), seed=0)
    return Sequence(start, arrival=0, arrived_at=0.0, block_size=BLOCK_SIZE)


def tables_of(num_blocks: int, rows: int = 3) -> tuple[BlockPool, BlockTables]:
    pool = BlockPool(num_blocks)
    return pool, BlockTables(pool, block_size=BLOCK_SIZE, max_num_seqs=rows, max_model_len=LONGEST)


def test_what_is_found_counts_as_free_only_while_nobody_has_it() -> None:
    pool, tables = tables_of(3)
    found = pool.allocate(2)
    assert tables.fits(sequence_of(12), found) and not tables.fits(sequence_of(13), found)
    pool.release(found)
    assert tables.fits(sequence_of(12), found) and not tables.fits(sequence_of(13), found)


def test_one_more_token_for_all_or_for_none() -> None:
    pool, tables = tables_of(3)
    full, other = sequence_of(4), sequence_of(4)
    for sequence in (full, other):
        tables.open(sequence, [])
        tables.extend(sequence, 4)
    assert not tables.extend_all([full, other]) and pool.num_free == 1
    assert tables.extend_all([full]) and len(full.block_table) == 2
    assert tables.extend_all([full]) and pool.num_free == 0


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from(["open", "extend", "extend", "close"]), st.integers(0, 5)), max_size=40),
)
def test_random_lives(num_blocks: int, steps: list[tuple[str, int]]) -> None:
    pool, tables = tables_of(num_blocks)
    held: list[Sequence] = []
    for what, number in steps:
        sequence = held[number % len(held)] if held else None
        if what == "open" and len(held) < 3:
            found = sequence.block_table[:number] if sequence is not None else []
            held.append(sequence_of(1))
            tables.open(held[-1], found)
            held[-1].num_computed = len(found) * BLOCK_SIZE
        elif what == "extend" and sequence is not None:
            tokens = min(number, tables.room(sequence), LONGEST - sequence.num_computed)
            tables.extend(sequence, tokens)
            sequence.num_computed += tokens
            assert sequence.num_computed <= len(sequence.block_table) * BLOCK_SIZE < sequence.num_computed + BLOCK_SIZE
        elif what == "close" and sequence is not None:
            held.remove(sequence)
            tables.close(sequence)
            assert (sequence.block_table, sequence.table_row) == ([], -1)
        pool.check_integrity([each.block_table for each in held])
        assert len({each.table_row for each in held}) == len(held)
        for each in held:
            assert tables.array[each.table_row, : len(each.block_table)].tolist() == each.block_table
