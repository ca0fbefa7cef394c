"""Steps as CUDA graphs: one launch in place of some hundred.

A graph always computes the same number of rows, over the same memory. So one is captured for each of a few sizes, when
the first such step comes; a step takes the next larger one.

Of decoding the whole step is a graph. Rows that are left over compute the first token of a sequence of their own, in a
block of the cache that nobody else has. Where prompts are read, attention is launched by itself, over the step's own
lengths, and what lies between two of them is a graph. What that computes of rows that are left over goes nowhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from engine.models.base import Piece

logger = logging.getLogger(__name__)

T = TypeVar("T")
FEWEST_KEYS = 1024
"""Greatest length of the shortest graph; those of longer ones are twice the one before."""
LARGEST_PIECE = 512
"""Tokens of a step with prompts: more keep a GPU busy for longer than it takes to launch them."""


class Capturing(Protocol):
    """The seam to the device."""

    def capture(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What ``run`` gives, and what computes it anew, into the same memory, from what its inputs then hold.

        Raises RuntimeError where it cannot be captured.
        """
        ...


class CudaCapturing:
    """Graphs that share one pool of memory: what one computes lasts until the next one is replayed."""

    def __init__(self, device: torch.device) -> None:
        stream: Any = torch.cuda.Stream  # Without types.
        self._stream = stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        current = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its own stream behind as the current one.
        with torch.cuda.stream(current):
            self._stream.wait_stream(current)
            try:
                # Kernels are compiled, and libraries take their workspaces, before anything is captured.
                with torch.cuda.stream(self._stream):
                    run()
            finally:
                current.wait_stream(self._stream)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                found = run()
        return found, graph.replay


class Captured(Generic[T]):
    """What was captured, by size."""

    def __init__(self, what: str, most: int) -> None:
        """``what``: a size in words, with a place for each of its numbers; ``most``: how many sizes there may be."""
        self._what, self._most = what, most
        self._found: dict[tuple[int, ...], T | None] = {}

    def __contains__(self, size: tuple[int, ...]) -> bool:
        return size in self._found

    def get(self, size: tuple[int, ...], capture: Callable[[], T]) -> T | None:
        """What ``capture`` gives, which is called once; None if it cannot be captured: then it is to be computed."""
        if size not in self._found:
            self._found[size] = self._capture(self._what % size, capture)
        return self._found[size]

    def _capture(self, what: str, capture: Callable[[], T]) -> T | None:
        began = time.perf_counter()
        tqdm: Any = import_module("tqdm").tqdm
        # Drawn on a terminal alone.
        options = {"total": self._most, "unit": "graph", "leave": False, "disable": None}
        try:
            with tqdm(initial=len(self._found), desc=f"capturing {what}", **options) as bar:
                found = capture()
                bar.update()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            logger.warning("cannot capture %s, so such steps are launched kernel by kernel: %s", what, reason)
            return None
        logger.info("captured %s in %.2f s", what, time.perf_counter() - began)
        return found


class DecodeGraphs(Generic[T]):
    def __init__(
        self, capturing: Capturing, compute: Callable[[int, int], T], max_sequences: int, max_length: int
    ) -> None:
        """``compute(sequences, length)``: a step of so many sequences, one token each, none of them longer."""
        self._capturing, self._compute = capturing, compute
        self._max_sequences, self._max_length = max_sequences, max_length
        sizes = {self.sequences(wanted) for wanted in range(1, max_sequences + 1)}
        lengths = {self._length(1 << power) for power in range(max_length.bit_length() + 1)}
        self._graphs = Captured[tuple[T, Callable[[], None]]](
            "a graph of %d sequences of at most %d tokens", len(sizes) * len(lengths)
        )

    def sequences(self, wanted: int) -> int:
        """The least number that there are graphs of: a power of two, a multiple of 8 or, from 64 on, of 32."""
        step = 32 if wanted > 64 else 8
        padded = 1 << (wanted - 1).bit_length() if wanted <= 8 else -(-wanted // step) * step
        return min(padded, self._max_sequences)

    def run(self, sequences: int, length: int) -> T:
        """A step of so many sequences, a number as from ``sequences``, the longest of them with ``length`` tokens."""
        size = (sequences, self._length(length))
        graph = self._graphs.get(size, lambda: self._capturing.capture(lambda: self._compute(*size)))
        if graph is None:
            return self._compute(*size)
        found, replay = graph
        replay()
        return found

    def _length(self, length: int) -> int:
        return min(max(FEWEST_KEYS, 1 << (length - 1).bit_length()), self._max_length)


class PieceGraphs:
    """The pieces of a step with prompts."""

    def __init__(self, capturing: Capturing, max_tokens: int, pieces: int) -> None:
        """``pieces``: of a model."""
        self._capturing = capturing
        self._max_tokens = min(max_tokens, LARGEST_PIECE)
        sizes = {self._padded(tokens) for tokens in range(1, self._max_tokens + 1)}
        self._graphs = Captured[tuple[list[Tensor], Callable[[], None]]](
            "a graph of %d tokens, piece %d", pieces * len(sizes)
        )
        self._failed: set[int] = set()
        self._memory: dict[tuple[Any, ...], Tensor] = {}
        """What pieces read and write, shared by all of them."""

    def run(self, place: int, piece: Piece, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``piece(*inputs)``, the model's piece number ``place``; valid until the next piece is run."""
        tokens = len(inputs[0])
        size = self._padded(tokens)
        if tokens > self._max_tokens or size in self._failed:
            return piece(*inputs)
        read = [self._kept(at, each) for at, each in enumerate(inputs)]
        if (size, place) not in self._graphs:
            inputs = tuple(each.clone() for each in inputs)  # To capture may be to compute, over what they stand in.

        def compute() -> list[Tensor]:
            results = piece(*(memory[:size] for memory in read))
            written = [self._kept(at, each) for at, each in enumerate(results)]
            for memory, result in zip(written, results, strict=True):
                memory[:size].copy_(result)
            return written

        graph = self._graphs.get((size, place), lambda: self._capturing.capture(compute))
        if graph is None:
            self._failed.add(size)
            return piece(*inputs)
        for memory, each in zip(read, inputs, strict=True):
            if memory.data_ptr() != each.data_ptr():
                memory[:tokens].copy_(each)
        found, replay = graph
        replay()
        return tuple(memory[:tokens] for memory in found)

    def _padded(self, tokens: int) -> int:
        """The least number that there are graphs of: a power of two from 16 on or, from 64 on, a multiple of that."""
        padded = max(16, 1 << (tokens - 1).bit_length()) if tokens <= 64 else -(-tokens // 64) * 64
        return min(padded, self._max_tokens)

    def _kept(self, at: int, like: Tensor) -> Tensor:
        """Memory for the inputs and results at this place that have rows like these."""
        key = (at, like.shape[1:], like.dtype)
        if key not in self._memory:
            size = (self._max_tokens, *like.shape[1:])
            self._memory[key] = torch.zeros(size, dtype=like.dtype, device=like.device)
        return self._memory[key]
