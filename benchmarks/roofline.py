"""The machine's limits, and what share of them a rate of decoding reaches: ``python -m benchmarks.roofline``.

    python -m benchmarks.roofline --shape M --dtype float32 --reached 1=18.1 8=120 32=190

A step of decoding reads all weights and every sequence's keys and values once, and multiplies the weights with a row
for each sequence. So it takes at least the larger of bytes / (bytes read per second) and operations / (float32
operations per second). Attention's own arithmetic is left out, so the roof is slightly too high, never too low.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.models import SHAPES, Shape

SOURCE = Path(__file__).with_name("roofline.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp")
READ_MIB = 768
"""What a read goes over: more than any cache holds."""
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5625}
"""For each weight. int8 has a scale for each output channel, which is next to nothing; int4 one in float16 for 32."""
CACHE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 4, "int4": 4}
"""For each number in the KV cache; quantized weights leave it in the checkpoint's type, here float32."""


@dataclass(frozen=True)
class Limits:
    """What a machine can do in a second."""

    read: float
    """Bytes from memory."""
    compute: float
    """float32 operations; a multiply-add counts as two."""

    def better(self, other: Limits) -> Limits:
        """The higher of each: a disturbance only ever lowers them."""
        return Limits(max(self.read, other.read), max(self.compute, other.compute))


@dataclass(frozen=True)
class Machine:
    """Limits, by number of threads, and what tells this machine from another."""

    processor: str
    cores: int
    instructions: str
    bytes_per_second: dict[str, float]
    flop_per_second: dict[str, float]
    """float32; a multiply-add counts as two."""
    matmul_flop_per_second: float
    """torch's float32 product of two 1536 x 1536 matrices with all threads, for comparison."""
    measured_with: str

    @property
    def limits(self) -> Limits:
        """With the number of threads that does most."""
        return Limits(max(self.bytes_per_second.values()), max(self.flop_per_second.values()))

    def better(self, other: Machine) -> Machine:
        """The higher of each limit."""

        def higher(mine: dict[str, float], its: dict[str, float]) -> dict[str, float]:
            return {threads: max(value, its[threads]) for threads, value in mine.items()}

        return replace(
            self,
            bytes_per_second=higher(self.bytes_per_second, other.bytes_per_second),
            flop_per_second=higher(self.flop_per_second, other.flop_per_second),
            matmul_flop_per_second=max(self.matmul_flop_per_second, other.matmul_flop_per_second),
        )

    def is_same(self, other: Machine, tolerance: float = 0.15) -> bool:
        """The same kind of processor with limits that differ by less than ``tolerance``."""
        ratios = (self.limits.read / other.limits.read, self.limits.compute / other.limits.compute)
        mine, its = ((m.processor, m.cores, m.instructions) for m in (self, other))
        return mine == its and all(1 - tolerance < ratio < 1 + tolerance for ratio in ratios)


@dataclass(frozen=True)
class Roof:
    """The highest rate of decoding."""

    tokens_per_second: float
    bound: str
    """bandwidth or arithmetic."""


def decode_roof(limits: Limits, shape: Shape, dtype: str, batch: int, context: float) -> Roof:
    """``context``: tokens in the cache of each sequence, on average over what is measured."""
    read = shape.multiplied * WEIGHT_BYTES[dtype] + batch * context * shape.cache_bytes(CACHE_BYTES[dtype])
    reading = read / limits.read
    computing = 2 * shape.multiplied * batch / limits.compute
    bound = "bandwidth" if reading > computing else "arithmetic"
    return Roof(batch / max(reading, computing), bound)


def measure() -> Machine:
    """Takes some ten seconds. A C program where there is a compiler, else torch: ``measured_with`` says which."""
    cores = len(os.sched_getaffinity(0))
    threads = range(1, cores + 1) if cores <= 8 else sorted({1, 2, 4, 8, cores // 2, cores})
    matmul = _torch_matmul(cores)
    with tempfile.TemporaryDirectory() as folder:
        program = compile_limits(Path(folder))
        found = {n: _run(program, n)[0] if program else _torch_limits(n) for n in threads}
    return Machine(
        processor=_processor("model name") or platform.processor() or platform.machine(),
        cores=cores,
        instructions=_instructions(),
        bytes_per_second={str(n): best.read for n, best in found.items()},
        flop_per_second={str(n): best.compute for n, best in found.items()},
        matmul_flop_per_second=matmul,
        measured_with=f"C program, gcc {' '.join(FLAGS)}" if program else "torch (no C compiler here): sum and matmul",
    )


@contextlib.contextmanager
def gauge() -> Iterator[Callable[[], Limits]]:
    """What measures the limits of this moment in two seconds: what all cores keep up, not what they can at best.

    On a shared host these differ, and what lasts for seconds can be compared with the first alone.
    """
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        program = compile_limits(Path(folder))
        yield lambda: _run(program, cores)[1] if program else _torch_limits(cores)


def compile_limits(folder: Path) -> Path | None:
    """``roofline.c`` as a program; None where there is no compiler."""
    program = folder / "roofline"
    try:
        subprocess.run(["gcc", *FLAGS, str(SOURCE), "-o", str(program)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return program


def _run(program: Path, threads: int) -> tuple[Limits, Limits]:
    """The best and the median of many rounds."""
    result = subprocess.run([str(program), str(threads), str(READ_MIB)], check=True, capture_output=True, text=True)
    best, middle = (Limits(*map(float, line.split())) for line in result.stdout.splitlines())
    return best, middle


def _best(once: Callable[[], object], rounds: int) -> float:
    def seconds() -> float:
        began = time.perf_counter()
        once()
        return time.perf_counter() - began

    return min(seconds() for _ in range(rounds))


def _torch_matmul(threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(1536, 1536)
    return 2 * 1536**3 / _best(lambda: a @ a, 10)


def _torch_limits(threads: int) -> Limits:
    import torch

    torch.set_num_threads(threads)
    data = torch.ones(READ_MIB * 2**18)
    return Limits(data.nbytes / _best(data.sum, 10), _torch_matmul(threads))


def _processor(key: str) -> str:
    """A line of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _instructions() -> str:
    """The vector extensions that matter for kernels."""
    present = {*_processor("flags").split(), *_processor("Features").split()}
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "bf16", "i8mm", "sve")
    return " ".join(name for name in known if name in present)


def shares(limits: Limits, shape: Shape, dtype: str, context: float, reached: dict[int, float]) -> list[str]:
    """One line for each batch size."""
    lines = []
    for batch, rate in reached.items():
        roof = decode_roof(limits, shape, dtype, batch, context)
        share = f", {rate:.1f} is {rate / roof.tokens_per_second:.0%} of it" if rate else ""
        lines.append(f"batch {batch}: at most {roof.tokens_per_second:.1f} tokens/s ({roof.bound}){share}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="M")
    parser.add_argument("--dtype", choices=WEIGHT_BYTES, default="float32")
    parser.add_argument("--context", type=float, default=160, help="tokens in each sequence's cache (default: 160)")
    parser.add_argument("--reached", nargs="+", default=["1=0", "8=0", "32=0"], metavar="BATCH=RATE")
    options = parser.parse_args(arguments)
    reached = {int(batch): float(rate) for batch, _, rate in (text.partition("=") for text in options.reached)}
    machine = measure()
    print(json.dumps(asdict(machine), indent=1))
    print(*shares(machine.limits, SHAPES[options.shape], options.dtype, options.context, reached), sep="\n")


if __name__ == "__main__":
    main()
