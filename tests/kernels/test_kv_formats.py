"""What a cache of 8 bits holds: every number of e4m3 and every place where its rounding turns, in each build of the C
kernels too; and int8 under its scale."""

import pytest
import torch

from kernels.kv_formats import FP8, read, stored
from kernels.ops.paged_attention import OP as ATTENTION
from kernels.ops.rope_and_cache import rope_and_cache
from kernels.providers.cpu.paged_attention import NativePagedAttention
from kernels.providers.cpu.rope_and_cache import NativeRopeAndCache

NUMBERS = torch.tensor(
    [
        (mantissa + 8 * (exponent > 0)) * 2.0 ** (max(exponent, 1) - 10)
        for exponent in range(16)
        for mantissa in range(8)
    ]
)[:127]
"""Those of e4m3 that are not below zero, by their bytes; the last byte is NaN."""


def turns():
    """(x, byte): every number, halfway to the next one and just beside that; and beyond the greatest."""
    halves = (NUMBERS[:-1] + NUMBERS[1:]) / 2
    even = torch.arange(126) + torch.arange(126) % 2
    pairs = [
        (NUMBERS, torch.arange(127)),
        (halves, even),
        (torch.nextafter(halves, torch.tensor(0.0)), torch.arange(126)),
        (torch.nextafter(halves, torch.tensor(torch.inf)), torch.arange(126) + 1),
        (torch.tensor([449.0, 463.9, 464.0, 465.0, 1e30, torch.inf, 1e-30, 1e-45]), torch.tensor([126] * 6 + [0] * 2)),
        (torch.tensor([torch.nan]), torch.tensor([127])),
    ]
    x, byte = (torch.cat(each) for each in zip(*pairs, strict=True))
    x, byte = torch.cat((x, -x)), torch.cat((byte, byte + 128)).to(torch.uint8)
    return x, byte


def test_a_number_becomes_the_nearest_of_e4m3():
    x, byte = turns()
    numbers, scales = stored(x, FP8)
    assert scales is None
    assert torch.equal(numbers.view(torch.uint8) & 127, byte & 127)
    assert torch.equal(read(numbers, None)[:127], NUMBERS)


def test_every_build_writes_the_same_e4m3(library):
    x, byte = (each[:1008].view(9, 7, 16) for each in turns())
    keys, values = torch.zeros(2, 3, 4, 7, 16).to(FP8)
    zeros, slots = torch.zeros(9, 7, 16), torch.arange(9)
    NativeRopeAndCache(library)(zeros, zeros, x, slots, torch.ones(9, 8), torch.zeros(9, 8), keys, values, slots)
    assert torch.equal(values.view(torch.uint8).view(12, 7, 16)[:9], byte)


@pytest.mark.parametrize("block_size", [16, 4])
def test_every_build_reads_all_of_e4m3(library, block_size):
    """The output for a sequence of one token is its value."""
    numbers = torch.arange(256, dtype=torch.uint8).view(FP8).view(1, 1, 2, 128)
    cache = torch.zeros(2, 2, block_size, 128).to(FP8).transpose(1, 2)
    cache.view(torch.uint8)[:, :1] = numbers.view(torch.uint8)
    keys = torch.zeros(2, 2, 128, block_size).to(FP8).permute(0, 3, 1, 2)
    one = torch.ones(1, dtype=torch.int32)
    table, starts = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    out = NativePagedAttention(library)(
        torch.ones(1, 2, 128), keys, cache, table, starts, one, max_query_len=1, max_seq_len=1, scale=1.0
    )
    torch.testing.assert_close(out, numbers[0].float(), atol=0, rtol=0, equal_nan=True)


def test_int8_is_the_nearest_multiple_of_a_scale_of_its_own():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, 16, generator=generator) * 10 ** (torch.rand(40, 3, 1, generator=generator) * 60 - 40)
    numbers, scales = stored(x, torch.int8)
    assert torch.equal(scales, x.abs().amax(-1) / 127)
    assert int(numbers.abs().amax(-1).min()) == int(numbers.abs().max()) == 127
    wide = x.double() / scales.double()[..., None]
    assert ((numbers - wide).abs() <= 0.5 + 1e-5).all()
    alone = [stored(token, torch.int8) for token in x]
    assert torch.equal(torch.stack([each for each, _ in alone]), numbers)


def test_ties_become_the_even_multiple_and_nothing_becomes_zero():
    numbers, scales = stored(torch.tensor([[127.0, 0.5, 1.5, -2.5], [0, 0, -0.0, 0], [1e-45, 0, 0, 0]]), torch.int8)
    assert numbers.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert scales.tolist() == [1, 0, 0]


def test_what_is_not_finite_is_not_read_as_a_number():
    x = torch.ones(4, 2, 8)
    x[0, 1, 3], x[1, 0, 2], x[2, 1] = torch.nan, torch.inf, -torch.inf
    found = read(*stored(x, torch.int8))
    strange = torch.tensor([[False, True], [True, False], [False, True], [False, False]])
    assert torch.equal(found.isnan().all(-1), strange)
    torch.testing.assert_close(found[~strange], torch.ones(5, 8))


def test_a_cache_without_its_scales_is_refused(library):
    example = next(
        each for each in ATTENTION.examples(torch.float32, torch.Generator()) if each.spec.cache_dtype == torch.int8
    )
    options = {name: value for name, value in example.options.items() if name not in ("k_scales", "v_scales")}
    with pytest.raises(ValueError, match="int8 with scales of None"):
        NativePagedAttention(library)(*example.arguments, **options)
    with pytest.raises(AssertionError, match="has scales"):
        caches = torch.zeros(2, 1, 4, 1, 8, dtype=torch.int8)
        x, zeros = torch.ones(1, 1, 8), torch.zeros(1, dtype=torch.int64)
        rope_and_cache(x, x, x, zeros, torch.ones(1, 4), torch.zeros(1, 4), *caches, zeros)
