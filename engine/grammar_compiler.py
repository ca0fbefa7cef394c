"""Grammars to matchers, by llguidance: an Earley parser over derivatives of regular expressions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.grammar import LARK_OPTIONS, Grammar, GrammarError
from engine.grammar_reasons import readable
from engine.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bits = npt.NDArray[np.int32]

MOST_COMPILED = 128
"""Grammars that are kept compiled where nothing else is said."""


def words_of(vocab_size: int) -> int:
    """Of a mask: 32 tokens in each."""
    return -(-vocab_size // 32)


class GrammarCompiler:
    """Thread-safe. What it was given lately is kept compiled."""

    def __init__(
        self, vocabulary: Vocabulary, eos_token_ids: Sequence[int], max_states: int, most_kept: int = MOST_COMPILED
    ) -> None:
        """``max_states``: of a grammar's lexer, which bounds the memory of a matcher. ``most_kept``: grammars.

        Raises GrammarError where the model has no end-of-sequence token: no answer would end.
        """
        if not eos_token_ids:
            raise GrammarError("the model has no end-of-sequence token, so an answer could not end")
        from llguidance import LLParserLimits, LLTokenizer

        self.vocab_size = len(vocabulary.tokens)
        self._eos_token_ids = tuple(eos_token_ids)
        table: Any = _Table(vocabulary, self._eos_token_ids[0])
        self._tokenizer = LLTokenizer(table, eos_token=list(eos_token_ids))
        self._limits = LLParserLimits(max_lexer_states=max_states, verbose_errors=False)
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._most_kept = most_kept

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """At the beginning of an answer. Raises GrammarError with llguidance's reason."""
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
                return known.deep_copy()
        compiled = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = compiled
            if len(self._compiled) > self._most_kept:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()

    def fill(self, matcher: LLMatcher, bits: Bits, stop_token_ids: Sequence[int]) -> None:
        """Set the bits of the tokens that may come next. Raises GrammarError where there are none, or at a limit."""
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self.check(matcher)
        self.add_stops(bits, stop_token_ids)

    def add_stops(self, bits: Bits, stop_token_ids: Sequence[int]) -> None:
        """Where the answer may end, it may end by any of these."""
        if _has(bits, self._eos_token_ids[0]):
            for token in stop_token_ids:
                bits.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)

    def check(self, matcher: LLMatcher, own_lines: int | None = None) -> None:
        """Raises GrammarError where the matcher has failed: its masks allow nothing but the end.

        ``own_lines``: as for ``readable``.
        """
        if matcher.is_error():
            raise GrammarError(readable(matcher.get_error(), own_lines=own_lines))

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar.lark(), log_level=0, limits=self._limits)
        self.check(matcher, LARK_OPTIONS.count("\n") if grammar.kind == "lark" else None)
        return matcher


class _Table:
    """What LLTokenizer reads of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, eos_token_id: int) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted(vocabulary.special_ids)
        self.eos_token_id = eos_token_id

    def __call__(self, text: bytes) -> list[int]:
        """For forced text alone, of which there is none with ``no_forcing``."""
        raise NotImplementedError("the vocabulary alone is known here")


def _has(bits: Bits, token: int) -> bool:
    return bool(bits[token // 32] >> token % 32 & 1)
