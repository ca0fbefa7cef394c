"""Positions, slots and tables of a batch, against plain loops over its tokens."""

import random

import numpy as np
import pytest
import torch

from engine.batch import ScheduledBatch
from engine.worker.input_buffers import InputBuffers


def random_batch(draw: random.Random, block_size: int) -> ScheduledBatch:
    sequences = draw.randrange(1, 9)
    query_lens = [draw.choice([1, 1, 2, 7, 30]) for _ in range(sequences)]
    context_lens = [draw.randrange(60) for _ in range(sequences)]
    free = draw.sample(range(1000), 1000)
    tables = [
        [free.pop() for _ in range(-(-(query + context) // block_size) + draw.randrange(2))]
        for query, context in zip(query_lens, context_lens, strict=True)
    ]
    longest = max(map(len, tables))
    return ScheduledBatch(
        step=0,
        sequence_ids=tuple(map(str, range(sequences))),
        input_ids=np.array([draw.randrange(99) for _ in range(sum(query_lens))], dtype=np.int32),
        query_lens=np.array(query_lens, dtype=np.int32),
        context_lens=np.array(context_lens, dtype=np.int32),
        block_tables=np.array([table + [-1] * (longest - len(table)) for table in tables], dtype=np.int32),
        samples=(),
    )


def fill(buffers: InputBuffers, batch: ScheduledBatch):
    buffers.write(batch)
    buffers.upload(len(batch.input_ids), len(batch.query_lens))
    return buffers.step(batch)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_a_step_is_laid_out_as_plain_loops_would(block_size):
    draw = random.Random(block_size)
    buffers = InputBuffers(240, 8, 120, block_size, torch.device("cpu"))
    for _ in range(30):
        batch = random_batch(draw, block_size)
        input_ids, metadata = fill(buffers, batch)
        positions, slots = [], []
        starts = [0]
        for query, context, table in zip(batch.query_lens, batch.context_lens, batch.block_tables, strict=True):
            for position in range(context, context + query):
                positions.append(position)
                slots.append(table[position // block_size] * block_size + position % block_size)
            starts.append(starts[-1] + int(query))
        assert input_ids.tolist() == batch.input_ids.tolist()
        assert metadata.positions.tolist() == positions
        assert metadata.slot_mapping.tolist() == slots
        assert metadata.query_start_loc.tolist() == starts
        assert metadata.seq_lens.tolist() == (batch.query_lens + batch.context_lens).tolist()
        assert metadata.max_query_len == max(batch.query_lens)
        assert metadata.max_seq_len == max(batch.query_lens + batch.context_lens)
        for row, table in enumerate(batch.block_tables):
            assert metadata.block_tables[row].tolist() == table.tolist()


def test_every_step_has_tensors_of_its_own():
    """By which what a provider keeps for the layers of one step is known, see ``kernels.per_step``."""
    draw = random.Random(1)
    buffers = InputBuffers(240, 8, 120, 4, torch.device("cpu"))
    one, other = (fill(buffers, random_batch(draw, 4))[1] for _ in range(2))
    for name in ("block_tables", "query_start_loc", "seq_lens"):
        assert getattr(one, name) is not getattr(other, name)


def test_the_tensors_are_the_same_memory_every_step():
    draw = random.Random(0)
    buffers = InputBuffers(240, 8, 120, 4, torch.device("cpu"))
    pointers = []
    for _ in range(2):
        input_ids, metadata = fill(buffers, random_batch(draw, 4))
        pointers.append((input_ids.data_ptr(), metadata.positions.data_ptr(), metadata.slot_mapping.data_ptr()))
    assert pointers[0] == pointers[1]


def test_a_batch_that_exceeds_the_budget_is_a_fault():
    buffers = InputBuffers(1, 1, 120, 4, torch.device("cpu"))
    batch = random_batch(random.Random(3), 4)
    assert len(batch.input_ids) > 1
    with pytest.raises((ValueError, IndexError)):
        fill(buffers, batch)
