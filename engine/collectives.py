"""What ranks say to each other in a step, over torch.distributed: gloo between CPUs, NCCL between GPUs.

Every rank of a group gets the same bits. Nothing here adds in an order that depends on how many rows there are, so a
row's result does not depend on the rows beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from engine.parallel import Span
from kernels.capture import outside
from kernels.registry import Machine

SENDING = 2
"""Messages to the next stage that may be on their way at once."""


class DistributedGroup:
    """A ``TensorGroup``."""

    def __init__(self, group: distributed.ProcessGroup, machine: Machine) -> None:
        self._group, self._machine = group, machine
        self._rank, self._size = distributed.get_rank(group), distributed.get_world_size(group)
        self._first = distributed.get_global_rank(group, 0)

    def join(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        def fill(rows: int, out: Tensor, part: Tensor) -> None:
            parts = self._gathered(_widened(part[:rows], spans))
            _lay_side_by_side(parts, spans, out[:rows])

        return outside(self._machine, fill, (x.shape[0], spans[0].whole), x)

    def join_on_first(self, x: Tensor, spans: Sequence[Span]) -> Tensor | None:
        def fill(rows: int, out: Tensor, part: Tensor) -> None:
            mine = _widened(part[:rows], spans)
            parts = mine.new_empty(self._size, *mine.shape)
            distributed.gather(mine, list(parts.unbind()), dst=self._first, group=self._group)
            _lay_side_by_side(parts, spans, out[:rows])

        def give(rows: int, _: Tensor, part: Tensor) -> None:
            distributed.gather(_widened(part[:rows], spans), None, dst=self._first, group=self._group)

        if self._rank:
            outside(self._machine, give, (x.shape[0], 1), x)
            return None
        return outside(self._machine, fill, (x.shape[0], spans[0].whole), x)

    def add(self, x: Tensor) -> Tensor:
        def fill(rows: int, out: Tensor, part: Tensor) -> None:
            # The order of a library's reduction depends on the size of the tensor; this one does not.
            first, *others = self._gathered(part[:rows].contiguous())
            total = out[:rows].copy_(first)
            for other in others:
                total.add_(other)

        return outside(self._machine, fill, tuple(x.shape), x)

    def pick(self, x: Tensor, ids: Tensor, span: Span) -> Tensor:
        def fill(rows: int, out: Tensor, x: Tensor, ids: Tensor) -> None:
            here = (ids[:rows] >= span.start) & (ids[:rows] < span.stop)
            # -0.0 changes no bit of what it is added to, so the order of this sum has no part in it.
            found = torch.where(here[:, None], x[:rows], -0.0)
            distributed.all_reduce(found, group=self._group)
            out[:rows] = found

        return outside(self._machine, fill, tuple(x.shape), x, ids)

    def _gathered(self, x: Tensor) -> Tensor:
        """[T, n] of every rank → [ranks, T, n]."""
        parts = x.new_empty(self._size, *x.shape)
        distributed.all_gather(list(parts.unbind()), x, group=self._group)
        return parts


def _widened(x: Tensor, spans: Sequence[Span]) -> Tensor:
    """Contiguous, and as wide as the widest of the spans; what is added means nothing."""
    widest = max(map(len, spans))
    if x.shape[1] == widest:
        return x.contiguous()
    wide = x.new_zeros(x.shape[0], widest)
    wide[:, : x.shape[1]] = x
    return wide


def _lay_side_by_side(parts: Tensor, spans: Sequence[Span], out: Tensor) -> None:
    """[ranks, T, widest] → [T, whole]."""
    for part, span in zip(parts, spans, strict=True):
        out[:, span.slice] = part[:, : len(span)]


class DistributedPipe:
    """A ``Pipe``."""

    def __init__(self, before: int | None, after: int | None) -> None:
        """Ranks of this one's neighbours, None where there is no such stage."""
        self._before, self._after = before, after
        self._sending: deque[tuple[distributed.Work, Tensor]] = deque()

    def send(self, x: Tensor) -> None:
        while len(self._sending) >= SENDING:
            self._sending.popleft()[0].wait()
        copy = x.clone()
        work = distributed.isend(copy, self._after)
        assert work is not None, "only a rank outside of the group is given none"
        self._sending.append((work, copy))

    def receive(self, out: Tensor) -> None:
        distributed.recv(out, self._before)
