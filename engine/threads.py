"""Work on weights in pieces that fit a core's cache, on as many threads as torch computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

PIECE = 1 << 15
"""Elements of a piece. torch computes with a second level of threads above that size."""


def in_threads(work: Callable[[T], None], items: Iterable[T]) -> None:
    """``work(item)`` for every item, in any order; the first exception of one is raised here.

    torch and numpy let go of the interpreter's lock while they compute.
    """

    def one(item: T) -> None:
        # The mode is a thread's own, and weights made in it may not be written outside of it.
        with torch.inference_mode(inference):
            work(item)

    inference = torch.is_inference_mode_enabled()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(one, items):
            pass
