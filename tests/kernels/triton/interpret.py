"""Runs Triton providers in Triton's interpreter: ``python interpret.py OP...``. Prints what disagrees.

A process of its own: Triton decides when it is imported whether it interprets, also for the functions of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl

from kernels.kv_formats import FP8, stored
from kernels.ops.linear import GROUP, Int4Weight, Int8Weight
from kernels.philox import LANES, philox
from kernels.providers.triton.device.attention import from_e4m3
from kernels.providers.triton.device.rope import store_head, to_e4m3
from kernels.providers.triton.device.sampling import random_words
from kernels.providers.triton.linear import TritonLinear
from kernels.providers.triton.paged_attention import TritonPagedAttention
from kernels.registry import Example, Op, Provider, Tolerance, ops, providers

TRUNCATED = Tolerance(8e-2, 2.0**-7)
"""The interpreter makes a bfloat16 by cutting off, where a GPU rounds: a norm of such sums is further off."""
FEW = dict.fromkeys(("linear", "rope_and_cache"), (torch.bfloat16, torch.float16))
"""dtypes of which half of the examples are tried: the interpreter takes seconds for each."""


def examples(op: Op[Any, Any], dtype: torch.dtype) -> Iterator[Example[Any]]:
    made = list(op.examples(dtype, torch.Generator().manual_seed(0)))
    if op.name == "paged_attention":
        # Every shape in float32, most in 16 bits; together prompts and decoding with each dtype of the cache.
        yield from made[2::3] if dtype == torch.float32 else made[::3]
    else:
        yield from made[::2] if dtype in FEW.get(op.name, ()) else made


def disagreements(op: Op[Any, Any], provider: Provider[Any, Any], dtype: torch.dtype) -> Iterator[str]:
    implementation = provider.load()
    for example in examples(op, dtype):
        if not provider.accepts(example.spec):
            continue
        expected, found = (
            op.run(each, *example.arguments, **example.options) for each in (op.reference, implementation)
        )
        expected, found = ((each,) if isinstance(each, torch.Tensor) else each for each in (expected, found))
        for one, other in zip(found, expected, strict=True):
            tolerance = TRUNCATED if one.dtype == torch.bfloat16 else op.tolerances[dtype]
            try:
                torch.testing.assert_close(one, other, atol=tolerance.atol, rtol=tolerance.rtol, equal_nan=True)
            except AssertionError as error:
                yield f"{op.name} {dtype} {example.spec}: {error}"


def attention_in_one_order() -> Iterator[str]:
    """With tiles of one shape, a decoding step has the bits of the same queries at the end of their prompts."""
    implementation = TritonPagedAttention(one_tile=True)
    op = next(op for op in ops() if op.name == "paged_attention")
    for example in op.examples(torch.float32, torch.Generator().manual_seed(0)):
        if example.options["max_query_len"] == 1 and example.spec.cache_dtype.itemsize != 2:
            decoded = implementation(*example.arguments, **example.options)
            as_prompt = implementation(*example.arguments, **{**example.options, "max_query_len": 2})
            if not torch.equal(decoded, as_prompt):
                yield f"paged_attention {example.spec}: decoding and prompts differ"


@triton.jit
def through_e4m3(x, stored, read, COUNT: tl.constexpr):  # noqa: N803 - Triton's way
    at = tl.arange(0, COUNT)
    tl.store(stored + at, to_e4m3(tl.load(x + at)))
    tl.store(read + at, from_e4m3(tl.load(stored + at)))


@triton.jit
def through_int8(x, stored, scales, COUNT: tl.constexpr):  # noqa: N803 - Triton's way
    row, at = tl.program_id(0) * COUNT, tl.arange(0, COUNT)
    first, second = tl.load(x + 2 * row + at), tl.load(x + 2 * row + COUNT + at)
    store_head(first, second, stored + 2 * row, 1, scales + tl.program_id(0), COUNT, at, at < COUNT, "int8")


def caches_of_8_bits() -> Iterator[str]:
    """Every number of e4m3, what lies half-way between two of them and next to that, and what is no number at all; and
    heads of int8 without a scale."""
    numbers = torch.arange(256).to(torch.uint8).view(FP8).float()
    some = numbers[numbers.isfinite()].unique()
    middle = (some[1:] + some[:-1]) / 2
    near = [middle.nextafter(torch.tensor(away)) for away in (-torch.inf, torch.inf)]
    x = torch.cat([numbers, middle, *near, torch.tensor([449.0, 1e30, -1e30, torch.inf, -torch.inf, 1e-30, -1e-45])])
    x = torch.cat([x, torch.zeros(1024 - len(x))])
    found, back = torch.empty(1024, dtype=torch.int8), torch.empty(1024)
    through_e4m3[(1,)](x, found, back, 1024)
    expected, _ = stored(x, FP8)
    for one, other in ((found.view(FP8).float(), expected.float()), (back, expected.float())):
        wrong = ~((one == other) & (one.signbit() == other.signbit()) | (one.isnan() & other.isnan()))
        if wrong.any():
            yield f"e4m3 of {x[wrong].tolist()}: {one[wrong].tolist()} in place of {other[wrong].tolist()}"
    heads = torch.randn(7, 32)
    heads[1] = 0.0
    heads[2] = 1e-44
    heads[3, 5], heads[4, 20], heads[5, 0] = torch.inf, torch.nan, -torch.inf
    heads[6] = torch.arange(-15.5, 16.5)
    heads[6, 0] = 127.0  # So the scale is 1, and the others are ties.
    values, scales = torch.empty(7, 32, dtype=torch.int8), torch.empty(7)
    through_int8[(7,)](heads, values, scales, 16)
    expected, expected_scales = stored(heads, torch.int8)
    if not torch.equal(values, expected) or not torch.allclose(scales, expected_scales, 0, 0, equal_nan=True):
        yield f"int8: {values.tolist()} {scales.tolist()} in place of {expected.tolist()} {expected_scales.tolist()}"


def products_in_one_order() -> Iterator[str]:
    """A row has the same bits alone, in a few rows (a program for each split) and in many (one program for all)."""
    implementation = TritonLinear()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(70, 1120).to(dtype)
        values = torch.randint(-8, 8, (150, 1120), dtype=torch.int8)
        weights = {
            "dense": torch.randn(150, 1120).to(dtype),
            "int8": Int8Weight(values, torch.rand(150)),
            "int4": Int4Weight(values, torch.rand(150, 1120 // GROUP).half()),
        }
        for name, weight in weights.items():
            handle = implementation.pack(weight, torch.randn(150).to(dtype))
            together = implementation(x, handle)
            # At the places in their tiles that they have together: NumPy multiplies a tile's rows in groups.
            for part in (slice(0, 1), slice(64, 65), slice(0, 40), slice(64, 70), slice(0, 66)):
                if not torch.equal(implementation(x[part], handle), together[part]):
                    yield f"linear {name} {dtype}: rows {part} differ"


@triton.jit
def store_words(seeds, choices, positions, block, out, COUNTERS: tl.constexpr):  # noqa: N803 - Triton's way
    row = tl.program_id(0)
    seed, choice, position = tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row)
    words = random_words(seed, choice, position, block, COUNTERS)
    tl.store(out + row * 4 * COUNTERS + tl.arange(0, 4 * COUNTERS), words.to(tl.int64))


def same_random_words() -> Iterator[str]:
    """The integers of the noise, bit for bit as ``kernels.philox`` gives them."""
    counters = 64
    for block in (0, 31_999, 2**29):
        seeds = torch.randint(-(2**63), 2**63 - 1, (5,))
        choices, positions = torch.tensor([0, 1, 2**32 - 1, 7, 2**31]), torch.tensor([0, 2**32 - 1, 3, 2**31, 5])
        found = torch.empty(5, LANES * counters, dtype=torch.int64)
        store_words[(5,)](seeds, choices, positions, block, found, counters)
        row = torch.arange(5).repeat_interleave(counters)
        expected = philox(seeds[row], choices[row], positions[row], block + torch.arange(counters).repeat(5))
        if not torch.equal(found, expected.view(5, -1)):
            yield f"random words from counter {block} on differ"


def main() -> None:
    found: list[str] = []
    for op in ops():
        if op.name not in sys.argv[1:]:
            continue
        for provider in providers(op.name):
            # The other one of attention computes the same with other tiles; see ``attention_in_one_order``.
            if provider.name == "triton" or (provider.name == "triton-invariant" and op.name == "linear"):
                found += [line for dtype in op.tolerances for line in disagreements(op, provider, dtype)]
        if op.name == "paged_attention":
            found += attention_in_one_order()
        if op.name == "rope_and_cache":
            found += caches_of_8_bits()
        if op.name == "linear":
            found += products_in_one_order()
        if op.name == "sample_tokens":
            found += same_random_words()
    print("\n".join(found))
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
