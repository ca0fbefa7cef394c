"""How near the matrix product comes to the arithmetic limit, and what keeps it away: ``python -m benchmarks.product``.

Three rates, taken in turns of a few milliseconds for half a minute, so that they meet the same states of the machine:
multiply-adds of numbers that stay in registers; the product of 96 rows with a weight that, like the rows, stays in the
second-level cache; and the same rows with a weight of a model's size, which comes from memory. The limit of the
roofline is the best round of the first. What the second falls short of it by is the machine's way of feeding its
arithmetic from caches, which on a shared host others use too; the third has reading the weights on top of that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

# As for the engine process, before anything loads the OpenMP runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from benchmarks.roofline import compile_limits
from kernels.providers.cpu.library import Library, Program
from kernels.providers.cpu.linear import PackedLinear
from kernels.providers.cpu.loader import load

ROWS = 96
IN_CACHE, OF_A_MODEL = (256, 192), (896, 9728)
"""Inputs and outputs of the weights: 192 KiB and 33 MiB."""
REGISTERS, CACHE, MEMORY = "multiply-adds in registers", "product in the cache", "product from memory"


class Product:
    """Products of so many rows with one weight, one after the other in one call."""

    def __init__(self, library: Library, shape: tuple[int, int], times: int) -> None:
        linear = PackedLinear(library)
        inputs, outputs = shape
        weight = linear.pack(torch.randn(outputs, inputs), None)
        x = torch.randn(ROWS, inputs)
        with library.record() as program:
            for _ in range(times):
                linear(x, weight)
        self._program: Program = program
        self._flop = 2.0 * ROWS * inputs * outputs * times

    def rate(self) -> float:
        """FLOP per second of one call."""
        began = time.perf_counter()
        self._program.run(ROWS, 0)
        return self._flop / (time.perf_counter() - began)


def measure(library: Library, limits: Path, threads: int, turns: int) -> dict[str, list[float]]:
    """GFLOP/s of each kind, of every round."""
    torch.set_num_threads(threads)
    products = {CACHE: Product(library, IN_CACHE, 50), MEMORY: Product(library, OF_A_MODEL, 1)}
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        output = subprocess.run([limits, str(threads), "0"], check=True, capture_output=True, text=True).stdout
        rates[REGISTERS] += [float(line) / 1e9 for line in output.split()]
        for kind, product in products.items():
            product.rate()  # not counted: what it needs comes into the cache
            rates[kind] += [product.rate() / 1e9 for _ in range(30 if kind == CACHE else 8)]
    return rates


def table(threads: int, rates: dict[str, list[float]]) -> list[str]:
    best = max(rates[REGISTERS])
    lines = [
        f"## {threads} thread{'s' if threads > 1 else ''}",
        "",
        "| GFLOP/s | lowest tenth | median | highest tenth | median against the limit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, values in rates.items():
        tenths = statistics.quantiles(values, n=10)
        median = statistics.median(values)
        lines.append(f"| {kind} | {tenths[0]:.0f} | {median:.0f} | {tenths[-1]:.0f} | {median / best:.0%} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    library = load()
    if library is None:
        raise SystemExit("there are no compiled kernels for this machine")
    lines = ["# The matrix product and the arithmetic limit", "", (__doc__ or "").partition("\n\n")[2].strip()]
    with tempfile.TemporaryDirectory() as folder:
        limits = compile_limits(Path(folder))
        if limits is None:
            raise SystemExit("there is no C compiler to measure the machine with")
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            lines += ["", *table(threads, measure(library, limits, threads, options.turns))]
    text = "\n".join([*lines, ""])
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
