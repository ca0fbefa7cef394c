"""The bytes that each token of a model stands for. No text passes here: grammars are matched byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.token_pieces import load_backend, rules_of


@dataclass(frozen=True, slots=True)
class Vocabulary:
    tokens: list[bytes]
    """By id; what is no token has no bytes."""
    special_ids: frozenset[int]
    """Tokens that mark something and are no text."""

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> Vocabulary:
        """Of the model in a folder, whose logits have a width of ``vocab_size``. Raises ModelError."""
        backend = load_backend(folder)
        rules = rules_of(backend)
        tokens = [b""] * vocab_size
        for name, token in backend.get_vocab(with_added_tokens=True).items():
            if token < vocab_size:
                piece = rules.piece(name, first=False)
                tokens[token] = piece.encode() if isinstance(piece, str) else piece
        added = backend.get_added_tokens_decoder()
        special = (token for token, each in added.items() if each.special and token < vocab_size)
        return cls(tokens, frozenset(special))
