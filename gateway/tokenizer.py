"""Text to token ids and back, through Hugging Face's ``tokenizers`` library alone: no torch, no transformers.

Beside whole-text ``encode`` and ``decode`` it answers what *one* token contributes to a text (``engine.token_pieces``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as _Backend

from engine.errors import ModelError
from engine.token_pieces import Piece, load_backend, rules_of


class Tokenizer:
    """Thread-safe. Encoding and decoding release the GIL, which the library does only in its calls for batches."""

    def __init__(self, backend: _Backend, special_tokens: dict[str, str | list[str]] | None = None) -> None:
        # Files often carry the truncation and padding of somebody's training run.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(id_ for id_, token in added.items() if token.special)
        self.special_tokens: dict[str, str | list[str]] = special_tokens or {}
        """``bos_token``, ``eos_token`` … as ``tokenizer_config.json`` names them."""
        self.vocab_size: int = max(backend.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)
        self.rules = rules_of(backend)
        self._pieces: dict[int, Piece] = {}

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """From a model's folder. Raises ``ModelError`` where there is no tokenizer that can be read."""
        backend = load_backend(folder)
        try:
            special_tokens = _special_tokens(folder)
        except (OSError, msgspec.DecodeError) as error:
            raise ModelError(f"no tokenizer could be read from {folder}: {error}") from error
        return cls(backend, special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Special tokens that are spelt out in ``text`` become their ids, as chat templates need it."""
        ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Ids that are no token add nothing."""
        text: str = self._backend.decode_batch([list(ids)], skip_special_tokens=skip_special_tokens)[0]
        return text

    def token_id(self, text: str) -> int | None:
        """The token that the vocabulary spells so; None where there is none."""
        found: int | None = self._backend.token_to_id(text)
        return found

    def special_id(self, text: str) -> int | None:
        """The special token that a text is, if it is one."""
        return next(iter(self.special_ids_of((text,))), None)

    def special_ids_of(self, texts: Iterable[str]) -> frozenset[int]:
        """Of those texts that are special tokens, the ids."""
        ids = (self._backend.token_to_id(text) for text in texts)
        return frozenset(id_ for id_ in ids if id_ in self.special_ids)

    def piece(self, token_id: int) -> Piece:
        """What the token adds to a text that has begun; an id that is no token adds nothing."""
        piece = self._pieces.get(token_id)
        if piece is None:
            token = self._backend.id_to_token(token_id)
            piece = self._pieces[token_id] = "" if token is None else self.rules.piece(token, first=False)
        return piece

    def first_piece(self, token_id: int) -> Piece | None:
        """What the token adds as the first of a text, before ``rules.strip``; None for an id that is no token."""
        token = self._backend.id_to_token(token_id)
        return None if token is None else self.rules.piece(token, first=True)

    def spelling(self, token_id: int) -> str:
        """As the vocabulary writes it, such as ``Ġthe``; empty for an id that is no token."""
        return self._backend.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token, a leading space included."""
        piece = self.piece(token_id)
        piece = piece.encode() if isinstance(piece, str) else piece
        return piece.removeprefix(self.rules.joiner.encode())

    def token_text(self, token_id: int) -> str:
        """For people to read: a byte that is part of no whole character shows as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")


def _special_tokens(folder: Path) -> dict[str, str | list[str]]:
    found: dict[str, str | list[str]] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        if not file.exists():
            continue
        for key, value in msgspec.json.decode(file.read_bytes()).items():
            if key.endswith("_token") and (text := _content(value)) is not None:
                found[key] = text
            elif key in ("additional_special_tokens", "extra_special_tokens") and isinstance(value, list):
                found["additional_special_tokens"] = [text for item in value if (text := _content(item)) is not None]
    return found


def _content(value: Any) -> str | None:
    """A token is written plainly or as an object with its flags; ``add_bos_token`` and the like are no tokens."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
