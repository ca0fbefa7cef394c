"""What follows from the inputs of a step and is the same for all of its layers, computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor

V = TypeVar("V")


class PerStep(Generic[V]):
    """Remembers values until the tensors of another step come.

    A step is known by its tensors themselves, not by what they hold: a model hands the same ones to all layers of a
    step, and to none of another.
    """

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, ...] = ()  # Held, so that no later one is taken for them.
        self._values: dict[Hashable, V] = {}

    def get(self, tensors: tuple[Tensor, ...], make: Callable[[], V], key: Hashable = None) -> V:
        """What ``make`` gave for these tensors and that key; ``make`` is called where it has not been yet."""
        same = len(tensors) == len(self._tensors) and all(map(_is, tensors, self._tensors))
        if not same:
            self._tensors, self._values = tensors, {}
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]


def _is(one: Tensor, other: Tensor) -> bool:
    return one is other
