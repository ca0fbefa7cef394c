"""What the process that tries grammars is told, and what it says: a line of JSON each."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.grammar import Grammar, GrammarKind

TrialKind = GrammarKind | Literal["ebnf"]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    parent: int
    """Id of the process that asks. With it this one ends, in the middle of a grammar too."""
    folder: str
    """Of the model."""
    vocab_size: int
    eos_token_ids: list[int]
    max_states: int
    memory: int
    """Bytes that compiling may take."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    kind: TrialKind
    """``ebnf`` is GBNF, as llama.cpp has it, or a Lark grammar."""
    source: str
    embedded: tuple[tuple[int, str, str], ...] = ()
    """Grammars of the kind ``ebnf`` within the source: the place of the rule that stands for it, the grammar, and where
    in the request's field it was written. In order."""
    parts: tuple[tuple[str, str], ...] = ()
    """What the source was made of: where in the request's field each was written, and what a Lark rule says for it."""
    around: tuple[str, str] | None = None
    """The beginning and the end of a Lark grammar, between which a rule says what stands for this one."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Either a grammar or an error."""

    grammar: Grammar | None = None
    """To be used; an ``ebnf`` has become Lark."""
    error: str | None = None
    path: str = ""
    """Where in the request's field the mistake is; empty where it is not one part's."""
