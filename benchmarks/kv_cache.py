"""What a narrower KV cache costs and saves: ``python -m benchmarks.kv_cache`` writes docs/benchmarks/kv-cache.md.

Quality: the demo model with float32 weights reads held-out conversations of its own corpus and answers their questions,
as in ``benchmarks.perplexity``. Speed: attention alone, over caches of all dtypes in turns.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from benchmarks.perplexity import ROOT, Kind, alone, score
from engine.config import KVCacheDType
from engine.worker.kv_cache import DTYPES
from kernels.kv_formats import stored
from kernels.ops import paged_attention
from kernels.ops.paged_attention import heads_first
from kernels.ops.rope_and_cache import transposed
from kernels.registry import Kernels, Machine

PAGE = ROOT / "docs/benchmarks/kv-cache.md"
KINDS: tuple[KVCacheDType, ...] = ("float32", "bfloat16", "fp8", "int8")
BLOCK = 16


class Case(NamedTuple):
    """Of attention: sequences of so many tokens, the last few of them queries."""

    sequences: int
    length: int
    queries: int
    heads: int
    kv_heads: int
    head_dim: int


CASES = (
    Case(8, 8192, 1, 16, 8, 128),
    Case(8, 8192, 1, 14, 2, 64),
    Case(1, 4096, 1, 16, 8, 128),
    Case(1, 4096, 256, 16, 8, 128),
)


def quality(count: int, threads: int | None) -> str:
    rows = []
    for dtype in KINDS:
        found = alone(score, Kind("float32", kv_cache_dtype=dtype), threads, count)
        print(dtype, found, flush=True)
        right = f"{100 * found.right / found.questions:.1f} %"
        rows.append(f"| {dtype} | {found.perplexity:.4f} | {found.answer_perplexity:.4f} | {right} |\n")
    return (
        f"The demo model, weights in float32: {count} held-out conversations of each skill, {found.questions:,} "
        f"conversations and {found.tokens:,} tokens.\n\n"
        "| cache | perplexity, all tokens | perplexity, answers | right answers |\n| --- | ---: | ---: | ---: |\n"
        + "".join(rows)
    )


def attention(dtype: KVCacheDType, case: Case) -> Callable[[], object]:
    """One layer of a step over random keys and values, as a call."""
    sequences, length, queries, heads, kv_heads, head_dim = case
    generator = torch.Generator().manual_seed(0)
    size = (sequences * length // BLOCK, BLOCK, kv_heads, head_dim)
    held = [stored(torch.randn(size, generator=generator), DTYPES[dtype]) for _ in range(2)]
    (keys, key_scales), (values, value_scales) = held
    scales = {} if key_scales is None or value_scales is None else {
        "k_scales": heads_first(key_scales), "v_scales": heads_first(value_scales)
    }  # fmt: skip
    spec = paged_attention.PagedAttentionSpec(heads, kv_heads, head_dim, BLOCK, False, torch.float32, DTYPES[dtype])
    attend = Kernels(Machine.detect(torch.device("cpu"))).select(paged_attention.OP, spec)
    tables = torch.randperm(size[0], generator=generator).int().view(sequences, -1)
    return functools.partial(
        attend,
        torch.randn(sequences * queries, heads, head_dim, generator=generator),
        transposed(keys),
        heads_first(values),
        tables,
        torch.arange(sequences + 1, dtype=torch.int32) * queries,
        torch.full((sequences,), length, dtype=torch.int32),
        max_query_len=queries,
        max_seq_len=length,
        scale=head_dim**-0.5,
        **scales,
    )


def speed(seconds: float, threads: int | None) -> str:
    torch.set_num_threads(threads or torch.get_num_threads())
    rows = []
    for case in CASES:
        calls = {dtype: attention(dtype, case) for dtype in KINDS}
        best = dict.fromkeys(KINDS, float("inf"))
        ends = time.monotonic() + seconds / len(CASES)
        while time.monotonic() < ends:
            for dtype, call in calls.items():
                began = time.perf_counter()
                call()
                best[dtype] = min(best[dtype], time.perf_counter() - began)
        print(case, best, flush=True)
        cells = "".join(f" {1e3 * each:.2f} ms, {best['float32'] / each:.2f} |" for each in best.values())
        shape = f"{case.heads}, {case.kv_heads} of {case.head_dim}"
        rows.append(f"| {case.sequences} of {case.length:,} | {case.queries} | {shape} |{cells}\n")
    return (
        f"Attention of one layer, on {torch.get_num_threads()} threads; the fastest call, and how many times float32's "
        "speed that is.\n\n"
        f"| sequences of tokens | queries of each | heads, key-value heads | {' | '.join(KINDS)} |\n"
        f"| --- | ---: | --- |{' ---: |' * len(KINDS)}\n" + "".join(rows)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=25, help="held-out conversations of each skill")
    parser.add_argument("--seconds", type=float, default=30.0, help="for all steps together")
    parser.add_argument("--threads", type=int, help="that compute; by default one for each core")
    parser.add_argument("--only", choices=["quality", "speed"], help="print this part, and write nothing")
    options = parser.parse_args(arguments)
    parts = {"quality": lambda: quality(options.count, options.threads)}
    parts["speed"] = lambda: speed(options.seconds, options.threads)
    if options.only:
        print(parts[options.only]())
        return
    PAGE.write_text(
        f"<!-- Written by `python -m benchmarks.kv_cache --count {options.count}`. -->\n\n"
        "# What a narrower KV cache costs and saves\n\n"
        "How it is done stands in [quantization.md](../quantization.md#the-kv-cache).\n\n"
        f"## Quality\n\n{parts['quality']()}\n## Speed\n\n{parts['speed']()}",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
