"""The demo model's vocabulary, with markers of other models added, for grammars over it."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken

from engine.demo_model import PATH
from engine.grammar import Grammar
from engine.grammar_compiler import GrammarCompiler, words_of
from engine.token_pieces import load_backend, rules_of
from engine.vocabulary import Vocabulary
from gateway.tokenizer import Tokenizer

EOS = 2
TELLING = frozenset('"}])>\n,:{[')
"""Characters that end or begin something."""


@dataclass(frozen=True)
class Vocabularied:
    """The demo model's tokenizer with more tokens, special ones or plain ones, and what compiles grammars over it."""

    tokenizer: Tokenizer
    compiler: GrammarCompiler
    telling: list[int]
    """Tokens that plain chance would hardly ever hit on, and that answers need to come to an end."""

    def allows(self, source: str, text: str) -> bool:
        """Whether the text may be a whole answer."""
        matcher = self.compiler.matcher(Grammar("lark", source))
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if matcher.try_consume_tokens(ids) != len(ids):
            return False
        bits = np.zeros(words_of(self.compiler.vocab_size), np.int32)
        self.compiler.fill(matcher, bits, ())
        return bool(bits[EOS // 32] >> EOS % 32 & 1)

    def random_answer(self, source: str, rng: random.Random, longest: int, begin: str = "") -> str | None:
        """What comes of random tokens where the grammar allows them; None where it does not come to an end."""
        matcher = self.compiler.matcher(Grammar("lark", source))
        bits = np.zeros(words_of(self.compiler.vocab_size), np.int32)
        ids = self.tokenizer.encode(begin, add_special_tokens=False)
        assert matcher.consume_tokens(ids)
        while len(ids) < longest:
            self.compiler.fill(matcher, bits, ())
            allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
            choice = int(rng.choice(allowed))
            if rng.random() < 0.4 and (telling := [each for each in self.telling if each in allowed]):
                choice = rng.choice(telling)
            if choice == EOS:
                return self.tokenizer.decode(ids, skip_special_tokens=False)
            assert matcher.consume_token(choice)
            ids.append(choice)
        return None


@functools.cache
def with_tokens(*special: str, plain: tuple[str, ...] = ()) -> Vocabularied:
    """``plain`` tokens are text, spelt at once."""
    backend = load_backend(PATH)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    backend.add_tokens([AddedToken(text, normalized=False) for text in plain])
    tokenizer = Tokenizer(backend)
    rules = rules_of(backend)
    names = [backend.id_to_token(n) for n in range(backend.get_vocab_size(with_added_tokens=True))]
    pieces = [rules.piece(name, first=False) for name in names]
    tokens = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    compiler = GrammarCompiler(Vocabulary(tokens, tokenizer.special_ids), [EOS], 50_000)
    telling = {EOS, *(backend.token_to_id(text) for text in (*special, *plain))}
    telling |= {number for number, piece in enumerate(pieces) if piece in TELLING}
    return Vocabularied(tokenizer, compiler, sorted(telling))
