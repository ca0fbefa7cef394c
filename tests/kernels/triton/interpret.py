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

from kernels.ops.linear import GROUP, Int4Weight, Int8Weight
from kernels.philox import LANES, philox
from kernels.providers.triton.device.sampling import random_words
from kernels.providers.triton.linear import TritonLinear
from kernels.providers.triton.paged_attention import TritonPagedAttention
from kernels.registry import Example, Op, Provider, Tolerance, ops, providers

TRUNCATED = Tolerance(8e-2, 2.0**-7)
"""The interpreter makes a bfloat16 by cutting off, where a GPU rounds: a norm of such sums is further off."""
FEW = dict.fromkeys(("paged_attention", "linear"), (torch.bfloat16, torch.float16))
"""dtypes of which half of the examples are tried: the interpreter takes seconds for each."""


def examples(op: Op[Any, Any], dtype: torch.dtype) -> Iterator[Example[Any]]:
    made = list(op.examples(dtype, torch.Generator().manual_seed(0)))
    if op.name == "paged_attention":
        # Every shape, with the cache in one of the dtypes it may have, in turns.
        made = [example for example in made if example.spec.cache_dtype.itemsize > 1]
        kinds = 3 if dtype == torch.float32 else 1
        made = [example for number, example in enumerate(made) if number % kinds == number // kinds % kinds]
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
        if example.options["max_query_len"] == 1 and example.spec.cache_dtype == torch.float32:
            decoded = implementation(*example.arguments, **example.options)
            as_prompt = implementation(*example.arguments, **{**example.options, "max_query_len": 2})
            if not torch.equal(decoded, as_prompt):
                yield f"paged_attention {example.spec}: decoding and prompts differ"


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
        if op.name == "linear":
            found += products_in_one_order()
        if op.name == "sample_tokens":
            found += same_random_words()
    print("\n".join(found))
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
