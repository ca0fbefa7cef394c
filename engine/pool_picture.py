"""A picture of the block pool, for people to see: who holds which block, and what is shared or kept."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from engine.block_pool import BlockPool
from engine.messages import PoolPicture, SequencePicture
from engine.sequence import Sequence
from observability.records import EngineState

EMPTY, KEPT, SHARED, FIRST_OWNER = 0, 1, 2, 3
OWNERS = 256 - FIRST_OWNER
"""A cell is a byte; owners beyond these share numbers, and nothing but colours depends on them."""
MOST_SEQUENCES = 64


def draw(pool: BlockPool, running: SequenceOf[Sequence], state: EngineState, most: int) -> PoolPicture:
    """At most ``most`` cells, evenly spread over the pool. Raises ValueError where ``most`` is below 1."""
    if most < 1:
        raise ValueError(f"a picture of {most} cells")
    stride = -(-pool.num_blocks // most)
    cells = bytearray(_free_cells(pool, stride))
    for sequence in running:
        owner = _owner(sequence)
        for block in sequence.block_table:
            if block % stride == 0:
                cells[block // stride] = SHARED if pool.references(block) > 1 else owner
    oldest = sorted(running, key=lambda sequence: sequence.arrival)[:MOST_SEQUENCES]
    return PoolPicture(state=state, stride=stride, cells=bytes(cells), sequences=[_picture(each) for each in oldest])


def _free_cells(pool: BlockPool, stride: int) -> Iterable[int]:
    return (KEPT if pool.is_published(block) else EMPTY for block in range(0, pool.num_blocks, stride))


def _owner(sequence: Sequence) -> int:
    return FIRST_OWNER + sequence.arrival % OWNERS


def _picture(sequence: Sequence) -> SequencePicture:
    return SequencePicture(
        owner=_owner(sequence),
        prompt_tokens=sequence.num_prompt,
        cached_tokens=min(sequence.num_found, sequence.num_prompt),
        output_tokens=sequence.num_output,
        blocks=len(sequence.block_table),
    )
