"""Parallel: one rank's place among the ranks that hold a model together, and which part of everything is its own.

Tensor parallelism shares every matrix: a rank has all inputs of some of the outputs, and attention heads are whole.
Pipeline parallelism shares the layers: a rank is of one stage, and what a stage has computed the next goes on from.
Ranks are counted stage by stage: rank = stage * tensor_size + tensor_rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Span:
    """``start`` … ``stop - 1`` of ``whole``: a part of one dimension."""

    start: int
    stop: int
    whole: int

    @classmethod
    def all(cls, whole: int) -> Span:
        return cls(0, whole, whole)

    def __len__(self) -> int:
        return self.stop - self.start

    def times(self, factor: int) -> Span:
        """The same part where each element stands for ``factor`` neighbours."""
        return Span(self.start * factor, self.stop * factor, self.whole * factor)

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)


class TensorGroup(Protocol):
    """The ranks of one stage; every method is called by all of them at the same point."""

    def join(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """Each rank's columns [T, n] → all of them, on every rank. ``spans`` says which each has, in their order."""
        ...

    def join_on_first(self, x: Tensor, spans: Sequence[Span]) -> Tensor | None:
        """The same, on the group's first rank alone; None on the others."""
        ...

    def add(self, x: Tensor) -> Tensor:
        """Sum over ranks of [T, n], on every rank, in the order of ranks whatever T is."""
        ...

    def pick(self, x: Tensor, ids: Tensor, span: Span) -> Tensor:
        """Each row of [T, n] from the rank whose span holds the row's id: ids [T], spans that cover them all."""
        ...


class Pipe(Protocol):
    """This rank's neighbours in the stages before and after; what is sent is received in the same order."""

    def send(self, x: Tensor) -> None:
        """To the next stage. ``x`` may be written again at once."""
        ...

    def receive(self, out: Tensor) -> None:
        """Fill ``out`` from the stage before."""
        ...


@dataclass(frozen=True)
class Parallel:
    """A value; what talks to other ranks is there where there are any."""

    tensor_size: int = 1
    tensor_rank: int = 0
    stages: int = 1
    stage: int = 0
    reduces: bool = False
    """Whether the second matrix of a pair is shared by its inputs and partial sums are added (``--tp-reduce``)."""
    group: TensorGroup | None = None
    pipe: Pipe | None = None

    @property
    def ranks(self) -> int:
        return self.tensor_size * self.stages

    @property
    def rank(self) -> int:
        return self.stage * self.tensor_size + self.tensor_rank

    @property
    def first(self) -> bool:
        """Whether this is the stage that token ids go into."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether this is the stage that logits come out of."""
        return self.stage == self.stages - 1

    @property
    def samples(self) -> bool:
        """Whether this is the one rank that decides on tokens."""
        return self.last and self.tensor_rank == 0

    def share(self, size: int, unit: int = 1) -> Span:
        """This rank's part of a dimension that is shared in whole units."""
        return self.shares(size, unit)[self.tensor_rank]

    def shares(self, size: int, unit: int = 1) -> list[Span]:
        """Every rank's part, as even as whole units allow. Raises ConfigurationError where one would have nothing."""
        units = -(-size // unit)
        if units < self.tensor_size:
            raise ConfigurationError(
                f"--tensor-parallel-size {self.tensor_size}: a matrix of the model has only {size} rows or columns to "
                f"share{f', in groups of {unit}' if unit > 1 else ''}"
            )
        ends = [-(-units * rank // self.tensor_size) * unit for rank in range(self.tensor_size)] + [size]
        return [Span(ends[rank], ends[rank + 1], size) for rank in range(self.tensor_size)]

    def share_heads(self, heads: int, kv_heads: int) -> tuple[Span, Span]:
        """This rank's query heads and the key-value heads that these attend with.

        Fewer key-value heads than ranks are held by several ranks. Raises ConfigurationError where heads are left over.
        """
        size = self.tensor_size
        if heads % size:
            raise ConfigurationError(
                f"--tensor-parallel-size {size}: the model's {heads} attention heads cannot be shared evenly"
            )
        if max(size, kv_heads) % min(size, kv_heads):
            raise ConfigurationError(
                f"--tensor-parallel-size {size}: the model's {kv_heads} key-value heads can be neither shared evenly "
                "nor repeated evenly"
            )
        first = self.tensor_rank * kv_heads // size
        return self.share(heads), Span(first, first + max(1, kv_heads // size), kv_heads)

    def layers(self, count: int) -> range:
        """This stage's layers; where stages are not even, the earlier ones have one more.

        The last stage has the language-model head as well. Raises ConfigurationError where a stage would have no layer.
        """
        if count < self.stages:
            raise ConfigurationError(
                f"--pipeline-parallel-size {self.stages}: the model has {count} layers, and each stage needs one"
            )
        return range(-(-count * self.stage // self.stages), -(-count * (self.stage + 1) // self.stages))

    def join(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """As ``TensorGroup.join``; ``x`` itself where there is no other rank."""
        return x if self.group is None else self.group.join(x, spans)


ALONE = Parallel()
"""One rank holds the whole model."""
