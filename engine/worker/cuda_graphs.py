"""Steps of decoding as CUDA graphs: one launch in place of some hundred.

A graph always computes the same number of rows, over the same memory. So one is captured for each of a few numbers of
sequences and of greatest lengths, when the first such step comes; a step takes the next larger one. Rows that are left
over compute the first token of a sequence of their own, in a block of the cache that nobody else has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
FEWEST_KEYS = 1024
"""Greatest length of the shortest graph; those of longer ones are twice the one before."""


class Capturing(Protocol):
    """The seam to the device."""

    def capture(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What ``run`` gives, and what computes it anew, into the same memory, from what its inputs then hold."""
        ...


class CudaCapturing:
    """Graphs that share one pool of memory: what one computes lasts until the next one is replayed."""

    def __init__(self, device: torch.device) -> None:
        stream: Any = torch.cuda.Stream  # Without types.
        self._stream = stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        # Kernels are compiled, and libraries take their workspaces, before anything is captured.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            found = run()
        return found, graph.replay


class DecodeGraphs(Generic[T]):
    def __init__(
        self, capturing: Capturing, compute: Callable[[int, int], T], max_sequences: int, max_length: int
    ) -> None:
        """``compute(sequences, length)``: a step of so many sequences, one token each, none of them longer."""
        self._capturing, self._compute = capturing, compute
        self._max_sequences, self._max_length = max_sequences, max_length
        self._graphs: dict[tuple[int, int], tuple[T, Callable[[], None]]] = {}

    def sequences(self, wanted: int) -> int:
        """The least number that there are graphs of: a power of two, a multiple of 8 or, from 64 on, of 32."""
        step = 32 if wanted > 64 else 8
        padded = 1 << (wanted - 1).bit_length() if wanted <= 8 else -(-wanted // step) * step
        return min(padded, self._max_sequences)

    def run(self, sequences: int, length: int) -> T:
        """A step of so many sequences, a number as from ``sequences``, the longest of them with ``length`` tokens."""
        key = (sequences, min(max(FEWEST_KEYS, 1 << (length - 1).bit_length()), self._max_length))
        if key not in self._graphs:
            began = time.perf_counter()
            self._graphs[key] = self._capturing.capture(lambda: self._compute(*key))
            seconds = time.perf_counter() - began
            logger.info("captured a graph of %d sequences of at most %d tokens in %.2f s", *key, seconds)
        found, replay = self._graphs[key]
        replay()
        return found
