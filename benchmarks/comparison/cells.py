"""What is measured: cells, each one kind of traffic that some contenders get in turn, and the phases they form.

Everything of a phase runs, or is suspended, at the same time, so that contenders take turns without starting anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.drivers import Job
from gateway.load.client import Request
from gateway.load.prompts import Lengths, PromptMaker


@dataclass(frozen=True)
class Cell:
    """A closed loop over requests of one shape. ``late`` prompts arrive while the others stream."""

    name: str
    title: str
    contenders: tuple[str, ...]
    concurrency: int
    requests: int
    prompt: int = 128
    """Tokens of a prompt, the shared ones included."""
    output: int = 64
    shared: int = 0
    late: int = 0
    late_prompt: int = 1024
    late_output: int = 8
    every: float = 5.0
    once: tuple[str, ...] = ()
    """Contenders that are far behind and slow: a second round of theirs would decide nothing."""

    @property
    def context(self) -> float:
        """Tokens in a sequence's cache, on average over its decoding."""
        return self.prompt + self.output / 2

    def job(self, maker: PromptMaker, scale: float = 1.0) -> Job:
        """``scale`` below 1 shortens outputs and long prompts, for a trial of the machinery."""

        def short(tokens: int, least: int) -> str:
            return str(max(least, round(tokens * scale)))

        shared = int(short(self.shared, 16)) if self.shared else 0
        own = short(self.prompt - self.shared, 16)
        output = int(short(self.output, 6))
        streams = maker.make(self.requests, Lengths.parse(own), shared)
        late = maker.make(self.late, Lengths.parse(short(self.late_prompt, 16)))
        return Job(
            [Request(prompt, output) for prompt in streams],
            self.concurrency,
            [Request(prompt, self.late_output) for prompt in late],
            self.every * scale,
        )


@dataclass(frozen=True)
class Phase:
    """Cells on one checkpoint."""

    checkpoint: str
    cells: tuple[Cell, ...]

    def contenders(self) -> list[str]:
        """In the order in which they are measured."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.contenders))


_SERVERS = ("penstock", "vllm", "openvino", "llama.cpp")
_FLOAT = ("penstock", "penstock-bf16", "vllm", "transformers", "openvino", "llama.cpp")
_SMALL = ("penstock", "penstock-kv8", "vllm", "openvino", "openvino-kv32", "llama.cpp")
_INT8 = ("penstock-int8", "openvino-int8", "llama.cpp-q8")

PHASES = (
    Phase(
        "M",
        (
            Cell("decode-1", "M, one request at a time", _FLOAT, 1, 2),
            Cell("decode-8", "M, 8 requests at a time", _FLOAT, 8, 8),
            Cell(
                "decode-32",
                "M, 32 requests at a time",
                (*_FLOAT, "generate"),
                32,
                32,
                once=("transformers", "generate"),
            ),
            Cell("prompts", "M, prompts of 1024", (*_SERVERS, "transformers"), 2, 2, prompt=1024, output=4),
            Cell(
                "prefix",
                "M, a shared prefix of 512",
                _SERVERS,
                8,
                8,
                prompt=544,
                output=32,
                shared=512,
                once=("llama.cpp",),
            ),
            Cell("mixed", "M, prompts of 1024 among 8 streams", _SERVERS, 8, 8, output=96, late=2),
        ),
    ),
    Phase(
        "M",
        (
            Cell("int8-1", "M in int8, one request at a time", _INT8, 1, 2),
            Cell("int8-8", "M in int8, 8 requests at a time", _INT8, 8, 8),
            Cell("int8-32", "M in int8, 32 requests at a time", _INT8, 32, 32),
        ),
    ),
    Phase(
        "S",
        (
            Cell("small-1", "S, one request at a time", _SMALL, 1, 16),
            Cell("small-8", "S, 8 requests at a time", _SMALL, 8, 64),
            Cell("small-32", "S, 32 requests at a time", _SMALL, 32, 128),
        ),
    ),
)
CELLS = {cell.name: cell for phase in PHASES for cell in phase.cells}
SPECIAL = {
    "start": "start of the demo model's server, to its first answer",
    "identity": "answers alone and in company, bit for bit",
}
"""Measured on ours alone, by code of their own."""
