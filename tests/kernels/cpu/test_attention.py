"""Attention and cache write in C: a query's bits depend on its sequence alone, in each build that runs here.

Not on the rows beside it, the cuts of its prompt, the threads, the blocks that hold its keys, or what those hold of
others.
"""

import itertools
import random

import pytest
import torch

from kernels.kv_formats import FP8, as_bytes, has_scales, read, stored
from kernels.ops.paged_attention import heads_first, paged_attention
from kernels.ops.rope_and_cache import rope_and_cache, transposed
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.paged_attention import NativePagedAttention
from kernels.providers.cpu.rope_and_cache import NativeRopeAndCache
from kernels.providers.cpu.variants import FOLDER, builds

ORDER = {"AVX512": 2, "AVX2": 1}
HERE = ORDER.get(torch.backends.cpu.get_cpu_capability(), 0)
RUNNABLE = [each.name for each in builds() if max((ORDER[name] for name in each.capabilities), default=0) <= HERE]
SHAPES = {
    "plain": {},
    "one row to a key head": {"heads": 6, "kv_heads": 6, "head_dim": 48},
    "many rows to a key head": {"heads": 13, "kv_heads": 1, "head_dim": 16},
    "16 bits": {"dtype": torch.bfloat16, "heads": 7, "kv_heads": 1},
    "8 bits": {"dtype": FP8, "heads": 7, "kv_heads": 1},
    "8 bits with scales": {"dtype": torch.int8, "heads": 6},
    "8 bits of odd sizes": {"dtype": FP8, "head_dim": 20, "block_size": 12, "sliding_window": 97},
    "8 bits of odd sizes with scales": {"dtype": torch.int8, "head_dim": 20, "block_size": 12, "soft_cap": 5.0},
    "odd sizes": {"head_dim": 20, "block_size": 12, "dtype": torch.float16},
    "large blocks": {"block_size": 128},
    "window": {"sliding_window": 97},
    "window across splits": {"sliding_window": 600, "heads": 2},
    "slopes": {"alibi_slopes": 2.0 ** -torch.arange(1.0, 5.0)},
    "cap": {"soft_cap": 2.0, "sliding_window": 40},
}
LENGTH = 1100


@pytest.fixture(params=RUNNABLE)
def library(request) -> Library:
    return Library(FOLDER / f"_{request.param}.so", request.param)


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Prompts:
    """Sequences in one cache, attended to in any cut and company."""

    def __init__(
        self, attend, lengths, heads=4, kv_heads=2, head_dim=32, block_size=16, dtype=torch.float32, **options
    ):
        generator = torch.Generator().manual_seed(5)
        self.attend, self.lengths, self.block_size, self.options = attend, lengths, block_size, options
        blocks = [-(-length // block_size) for length in lengths]
        self.content = [torch.randn(2, length, kv_heads, head_dim, generator=generator) for length in lengths]
        self.dtype = dtype
        self.q = [torch.randn(length, heads, head_dim, generator=generator) * 2 for length in lengths]
        self.size = (sum(blocks) + 5, block_size, kv_heads, head_dim)
        self.blocks, self.scale = blocks, head_dim**-0.5
        self.place(0)

    def place(self, seed, garbage=torch.nan):
        """Put all keys and values into blocks drawn anew; whatever else the cache holds is ``garbage``."""
        left = torch.full(self.size, garbage)
        numbers = torch.full(self.size, 77, dtype=torch.int8) if has_scales(self.dtype) else left.to(self.dtype)
        self.keys, self.values = transposed(numbers), heads_first(numbers)
        self.scales = (heads_first(left[..., 0]), heads_first(left[..., 0])) if has_scales(self.dtype) else ()
        order = torch.randperm(self.size[0], generator=torch.Generator().manual_seed(seed)).int()
        self.tables = [table.tolist() for table in torch.split(order[: sum(self.blocks)], self.blocks)]
        for table, content in zip(self.tables, self.content, strict=True):
            place = torch.arange(content.shape[1])
            slots = torch.tensor(table)[place // self.block_size], place % self.block_size
            stored_pairs = [stored(each, self.dtype) for each in content]
            for cache, (numbers, _) in zip((self.keys, self.values), stored_pairs, strict=True):
                as_bytes(cache)[slots] = as_bytes(numbers)
            for scales, (_, theirs) in zip(self.scales, stored_pairs, strict=False):
                scales[slots] = theirs

    def step(self, *parts):
        """Outputs of queries [start, stop) of sequences, as parts (sequence, start, stop), in one call."""
        tables = torch.zeros(len(parts), max(len(self.tables[row]) for row, *_ in parts), dtype=torch.int32)
        for index, (row, *_) in enumerate(parts):
            tables[index, : len(self.tables[row])] = torch.tensor(self.tables[row])
        counts = [stop - start for _, start, stop in parts]
        out = self.attend(
            torch.cat([self.q[row][start:stop] for row, start, stop in parts]),
            self.keys,
            self.values,
            tables,
            torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32),
            torch.tensor([stop for *_, stop in parts], dtype=torch.int32),
            max_query_len=max(counts),
            max_seq_len=max(stop for *_, stop in parts),
            scale=self.scale,
            **self.options,
            **dict(zip(("k_scales", "v_scales"), self.scales, strict=False)),
        )
        return torch.split(out, counts)

    def whole(self, row):
        return self.step((row, 0, self.lengths[row]))[0]


def some_positions(draw):
    """Where chunks, splits and blocks begin and end, and some others."""
    return {0, 15, 16, 63, 64, 511, 512, 513, 1023, 1024, LENGTH - 1, *(draw.randrange(LENGTH) for _ in range(25))}


@pytest.fixture(params=SHAPES)
def prompts(request, library):
    return Prompts(NativePagedAttention(library), [LENGTH], **SHAPES[request.param])


def test_the_reference_agrees(prompts):
    expected = Prompts(paged_attention, [LENGTH])
    expected.__dict__ |= prompts.__dict__ | {"attend": paged_attention}
    torch.testing.assert_close(prompts.whole(0), expected.whole(0), atol=1e-5, rtol=1e-5)


def test_a_prompt_at_once_in_chunks_or_token_by_token(prompts):
    expected, draw = prompts.whole(0), random.Random(0)
    for cuts in ([], [1], [512], *(sorted(draw.sample(range(1, LENGTH), 6)) for _ in range(3))):
        for start, stop in itertools.pairwise([0, *cuts, LENGTH]):
            assert torch.equal(prompts.step((0, start, stop))[0], expected[start:stop])
    for position in some_positions(draw):
        assert torch.equal(prompts.step((0, position, position + 1))[0], expected[position : position + 1])


def test_one_to_three_threads(prompts, set_threads):
    """A single token of one sequence too, whose keys are then shared out among the threads."""
    parts = [(0, 0, LENGTH), (0, LENGTH - 1, LENGTH), (0, 700, 703), (0, 1060, LENGTH)]
    set_threads(1)
    expected = [prompts.step(part)[0] for part in parts]
    for threads in (2, 3):
        set_threads(threads)
        for part, want in zip(parts, expected, strict=True):
            assert torch.equal(prompts.step(part)[0], want)


def test_any_blocks_and_whatever_others_left_in_them(prompts):
    expected = prompts.whole(0)
    for seed, garbage in [(1, torch.nan), (2, torch.inf), (3, 0.0), (4, -1e4)]:
        prompts.place(seed, garbage)
        assert torch.equal(prompts.whole(0), expected)
        assert torch.equal(prompts.step((0, 1029, 1030))[0], expected[1029:1030])


@pytest.mark.parametrize("shape", SHAPES)
def test_any_company(shape, library):
    draw = random.Random(1)
    lengths = [3, 64, 130, 517, 900]
    prompts = Prompts(NativePagedAttention(library), lengths, **SHAPES[shape])
    expected = [prompts.whole(row) for row in range(len(lengths))]
    for _ in range(12):
        parts = []
        for row in draw.sample(range(len(lengths)), draw.randrange(1, len(lengths) + 1)):
            start = draw.randrange(lengths[row])
            parts.append((row, start, draw.choice([start + 1, draw.randrange(start, lengths[row]) + 1])))
        for (row, start, stop), out in zip(parts, prompts.step(*parts), strict=True):
            assert torch.equal(out, expected[row][start:stop])


def test_a_nan_among_later_tokens_does_not_reach_earlier_ones(library):
    prompts = Prompts(NativePagedAttention(library), [200])
    expected = prompts.whole(0)
    prompts.content[0][:, 100:] = torch.nan
    prompts.place(0)
    out = prompts.whole(0)
    assert torch.equal(out[:100], expected[:100])
    assert out[100:].isnan().all()


def test_scores_beyond_all_bounds(library):
    """The greatest score takes all the weight, however large it is; a key that scores minus infinity takes none."""
    prompts = Prompts(NativePagedAttention(library), [300], heads=1, kv_heads=1)
    prompts.content[0][0, 17] = prompts.q[0][299] * 1e4
    prompts.place(0)
    torch.testing.assert_close(prompts.whole(0)[299, 0], prompts.content[0][1, 17, 0], atol=0, rtol=0)
    prompts.content[0][0, 17] = -torch.inf * prompts.q[0][299].sign()
    prompts.place(0)
    out = prompts.step((0, 299, 300))[0][0]
    prompts.content[0][0, 17] = -1e4 * prompts.q[0][299]
    prompts.place(0)
    assert torch.equal(out, prompts.step((0, 299, 300))[0][0])


@pytest.mark.parametrize("head_dim", [16, 20, 48, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, FP8, torch.int8])
def test_rotation_and_write_are_the_references_to_the_bit(library, set_threads, dtype, head_dim):
    tokens, blocks, block_size = 40, 9, 16
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(tokens, 12, head_dim, generator=generator).split([6, 3, 3], dim=1)
    if dtype == FP8:  # From what is too small for it to what is too large.
        k, v = (each * 10 ** (torch.rand(each.shape, generator=generator) * 8 - 4) for each in (k, v))
    for x, at in ((k, 3), (k, 30), (v, 30), (v, 7)):
        x[at, 1, at % 8], x[at, 2] = (torch.nan if at == 3 else torch.inf), 0
    positions = torch.randint(100, (tokens,), generator=generator)
    angles = torch.rand(100, head_dim // 2, generator=generator) * 100
    for slots in (torch.arange(tokens) + 7, torch.randperm(blocks * block_size, generator=generator)[:tokens]):
        outcomes = []
        for implementation, threads in [(rope_and_cache, 1), *((NativeRopeAndCache(library), n) for n in (1, 2, 3))]:
            set_threads(threads)
            keys = transposed(torch.zeros(blocks, block_size, 3, head_dim, dtype=dtype))
            values = torch.zeros(blocks, block_size, 3, head_dim, dtype=dtype)
            scales = list(torch.zeros(2, blocks, block_size, 3)) if has_scales(dtype) else []
            out = implementation(q, k, v, positions, angles.cos(), angles.sin(), keys, values, slots, *scales)
            held = (read(*pair) for pair in itertools.zip_longest((keys, values), scales))
            outcomes.append((out, *held, *(as_bytes(each).float() for each in (keys, values) if scales)))
        expected, *others = outcomes
        for other in others:
            for got, want in zip(other, expected, strict=True):
                torch.testing.assert_close(got, want, atol=0, rtol=0, equal_nan=True)


def test_inputs_that_the_kernels_cannot_read_are_refused(library):
    prompts = Prompts(NativePagedAttention(library), [8])
    prompts.q = [prompts.q[0].double()]
    with pytest.raises(ValueError, match="float64"):
        prompts.whole(0)
    q, table, cache = torch.randn(2, 3, 16), torch.randn(9, 8), torch.zeros(2, 4, 1, 16)
    slots = torch.arange(2)
    rope = NativeRopeAndCache(library)
    with pytest.raises(ValueError, match="int64"):
        rope(q, q, q, slots.int(), table, table, cache, cache, slots)
    with pytest.raises(ValueError, match="contiguous"):
        rope(q.transpose(1, 2), q, q, slots, table, table, cache, cache, slots)
