"""Which tokens each constrained sequence may go on with, computed beside the model.

Right after a step has sampled, another thread advances the matchers by its tokens and fills the masks of the next
step, while that step is sent, planned and computed; ``collect`` waits for what is left. A grammar that has to be
compiled is not waited for: its sequence is sampled by a later step.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.batch import SampleRequest
from engine.companion import Companion
from engine.grammar import GrammarError
from engine.grammar_compiler import Bits, GrammarCompiler, words_of
from engine.worker.machine import available_cores

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

PATIENCE = 0.02
"""Seconds that a step waits for a grammar where it samples nothing else."""
LOST = "The server failed while it was reading this request's grammar."


@dataclass(slots=True, eq=False)
class _Matched:
    """A sequence and its matcher, which stands after ``position`` output tokens."""

    slot: int
    """Row of its mask."""
    position: int
    stop_token_ids: tuple[int, ...]
    building: Future[tuple[LLMatcher, Bits]] | None
    matcher: LLMatcher | None = None
    failure: str | None = None


@dataclass(slots=True)
class Constraints:
    """Of R requests."""

    bits: Bits
    """[R, vocabulary / 32]; a bit is 1 where the token may be sampled. All ones where there is no grammar."""
    late: set[int] = field(default_factory=set)
    """Places of requests whose grammar is not ready."""
    refusals: dict[int, str] = field(default_factory=dict)
    """Place → why its sequence cannot go on."""


class GrammarMasks:
    """Each step: ``expect`` its requests, ``collect`` what they may sample, ``advance`` by what they did.

    A sequence is known until it ends, or until others have taken its place; one that is not known is folded anew.
    """

    def __init__(self, load: Callable[[], GrammarCompiler], vocab_size: int, max_rows: int) -> None:
        """``load`` is called by another thread, in idle time or when the first grammar comes; it may raise
        GrammarError, and is then called again for the next one.
        """
        self._load = load
        self._compiler: GrammarCompiler | None = None
        self._vocab_size = vocab_size
        self._known: OrderedDict[int, _Matched] = OrderedDict()
        """By the number of the sequence, the ones used last at the end."""
        self._slots = 2 * max_rows
        self._free = list(range(self._slots))
        self._loading = threading.Lock()
        self._asked = False
        self._advancing = False

    def use_idle_time(self) -> bool:
        """Have the compiler made before anybody needs it: reading a large vocabulary holds up every thread."""
        if self._compiler is None and not self._asked:
            self._asked = True
            self._builders.submit(self._loaded)
        return False

    def expect(self, requests: Sequence[SampleRequest]) -> None:
        """Begin with what is not known of requests that are about to be sampled."""
        for request in requests:
            if request.constrained and self._find(request) is None and request.grammar is not None:
                self._join()
                self._forget(request.sequence)
                self._known[request.sequence] = _Matched(
                    slot=self._take_slot(),
                    position=request.position,
                    stop_token_ids=request.params.stop_token_ids,
                    building=self._builders.submit(self._build, request),
                )

    def collect(self, requests: Sequence[SampleRequest], *, alone: bool) -> Constraints:
        """``alone``: whether the step samples nothing else, so that it may wait a little."""
        self._join()
        found = [self._find(request) if request.constrained else None for request in requests]
        if alone:
            self._wait([each for each in found if each is not None])
        constraints = Constraints(np.full((len(requests), words_of(self._vocab_size)), -1, np.int32))
        for place, (request, matched) in enumerate(zip(requests, found, strict=True)):
            if not request.constrained:
                continue
            if matched is None or not self._is_built(matched):
                constraints.late.add(place)
            elif matched.failure is not None:
                constraints.refusals[place] = matched.failure
                self._forget(request.sequence)
            else:
                constraints.bits[place] = self._bits[matched.slot]
        return constraints

    def advance(self, requests: Sequence[SampleRequest], token_ids: Sequence[int]) -> None:
        """Begin with the masks of what follows these tokens; of a request that was not sampled it is negative."""
        going: list[tuple[_Matched, int]] = []
        for request, token in zip(requests, token_ids, strict=True):
            matched = self._known.get(request.sequence) if request.constrained and token >= 0 else None
            if matched is None:
                continue
            if token in matched.stop_token_ids or request.position + 1 >= request.params.max_tokens:
                self._forget(request.sequence)
            else:
                matched.position += 1
                going.append((matched, token))
        if going:
            self._advancing = True
            self._companion.start(lambda: self._advance(going))

    # --- in other threads ------------------------------------------------------------------------------------

    def _build(self, request: SampleRequest) -> tuple[LLMatcher, Bits]:
        assert request.grammar is not None and request.output_ids is not None
        compiler = self._loaded()
        matcher = compiler.matcher(request.grammar)
        if len(request.output_ids):
            matcher.consume_tokens(request.output_ids.tolist())
        bits = np.empty(words_of(self._vocab_size), np.int32)
        compiler.check(matcher)
        compiler.fill(matcher, bits, request.params.stop_token_ids)
        return matcher, bits

    def _loaded(self) -> GrammarCompiler:
        with self._loading:
            if self._compiler is None:
                self._compiler = self._load()
            return self._compiler

    def _advance(self, going: list[tuple[_Matched, int]]) -> None:
        compiler = self._compiler
        assert compiler is not None, "they were built"
        try:
            self._executor.consume_token_par([(_matcher(matched), token) for matched, token in going])
            self._executor.unsafe_compute_mask_ptr(
                [(_matcher(matched), matched.slot) for matched, _ in going],
                self._bits.ctypes.data,
                self._bits.strides[0],
                len(self._bits),
            )
        except BaseException:  # A panic of the library's is no Exception.
            for matched, _ in going:
                matched.failure = LOST
            return
        for matched, _ in going:
            try:
                compiler.check(_matcher(matched))
                compiler.add_stops(self._bits[matched.slot], matched.stop_token_ids)
            except GrammarError as error:
                matched.failure = _told(error)

    # --- in the worker's -------------------------------------------------------------------------------------

    @cached_property
    def _bits(self) -> Bits:
        return np.zeros((self._slots, words_of(self._vocab_size)), np.int32)

    @cached_property
    def _builders(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(2, thread_name_prefix="grammar")

    @cached_property
    def _companion(self) -> Companion:
        return Companion("masks")

    @cached_property
    def _executor(self) -> LLExecutor:
        from llguidance import LLExecutor

        return LLExecutor(num_threads=available_cores())

    def _find(self, request: SampleRequest) -> _Matched | None:
        """None where it is not known as it stands."""
        matched = self._known.get(request.sequence)
        if matched is None or matched.position != request.position:
            return None
        self._known.move_to_end(request.sequence)
        return matched

    def _is_built(self, matched: _Matched) -> bool:
        if matched.building is None:
            return True
        if not matched.building.done():
            return False
        try:
            matched.matcher, self._bits[matched.slot] = matched.building.result()
        except GrammarError as error:
            matched.failure = _told(error)
        except BaseException:  # A panic of the library's is no Exception.
            matched.failure = LOST
        matched.building = None
        return True

    def _wait(self, those: list[_Matched]) -> None:
        building = [each.building for each in those if each.building is not None]
        if building and len(building) == len(those):
            wait(building, PATIENCE, FIRST_COMPLETED)

    def _join(self) -> None:
        if self._advancing:
            self._advancing = False
            self._companion.join()

    def _take_slot(self) -> int:
        if not self._free:
            self._forget(next(iter(self._known)))
        return self._free.pop()

    def _forget(self, sequence: int) -> None:
        matched = self._known.pop(sequence, None)
        if matched is not None:
            self._free.append(matched.slot)


def _matcher(matched: _Matched) -> LLMatcher:
    assert matched.matcher is not None, "it was sampled, so it was built"
    return matched.matcher


def _told(error: GrammarError) -> str:
    return f"The answer cannot go on by its grammar: {error}."
