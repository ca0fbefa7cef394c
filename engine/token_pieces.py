"""What one token of a tokenizer contributes to a text: the ``tokenizers`` library's decoders, taken apart.

The library's decoders work on whole sequences (``tokenizers`` 0.23, ``src/decoders`` and
``src/pre_tokenizers/{byte_level,metaspace}.rs``); the tests hold the two together.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as Backend

from engine.errors import ModelError

Piece = str | bytes
"""What a token adds to a text: whole characters, or bytes that may be part of one."""

OLDER_FILES = ("tokenizer.model", "vocab.json", "vocab.txt")
"""Vocabularies of the formats before tokenizer.json that transformers converts."""

EACH_BYTE = "penstock_each_byte"
"""Error handler for UTF-8: one U+FFFD for each byte that is part of no character, as byte fallback does."""


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _replace_each_byte)


def _byte_level_alphabet() -> dict[str, int]:
    """Character → byte of byte-level BPE (GPT-2's ``bytes_to_unicode``, turned round)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_level_alphabet()


@dataclass(frozen=True, slots=True)
class DecodingRules:
    """A tokenizer's decoder as rules for one token, and for the first one of a text."""

    byte_level: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    """Tokens written ``<0x0A>`` stand for that byte."""
    strip: tuple[str, int] = ("", 0)
    """(character, most of them) taken off the start of the text."""
    metaspace: str = ""
    """This character is a space, and nothing at all in the first token."""
    joiner: str = ""
    """Stands between any two tokens."""

    @property
    def errors(self) -> str:
        """Name of the error handler that turns wrong UTF-8 into text."""
        return EACH_BYTE if self.byte_fallback else "replace"

    def piece(self, token: str, *, first: bool) -> Piece:
        """What ``token`` (as the vocabulary spells it) adds to a text that it does or does not begin."""
        if self.byte_level:
            data = _byte_level(token)
            try:
                return data.decode()
            except UnicodeDecodeError:
                return data
        if self.metaspace:
            token = token.replace(self.metaspace, "" if first else " ")
        for old, new in self.replacements:
            token = token.replace(old, new)
        if self.byte_fallback and (byte := _fallback_byte(token)) is not None:
            return byte
        return token if first else self.joiner + token


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token, spelt plainly
        return token.encode()


def _fallback_byte(token: str) -> bytes | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return None
    return None


def decoding_rules(decoder: dict[str, Any] | None) -> DecodingRules:
    """Rules of a ``decoder`` entry of ``tokenizer.json``. Raises ``ModelError`` for one that is not of these kinds."""
    if decoder is None:
        return DecodingRules(joiner=" ")
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return DecodingRules(byte_level=True)
    replacements: list[tuple[str, str]] = []
    fields: dict[str, Any] = {}
    fused = False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not fused:
                replacements.append((old, new))
            case {"type": "ByteFallback"} if not fused:
                fields["byte_fallback"] = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": str(character), "start": int(most), "stop": 0} if fused:
                fields["strip"] = (character, most)
            case {"type": "Metaspace", "replacement": str(character)} if not fused:
                if step.get("prepend_scheme", "always") == "never":
                    replacements.append((character, " "))
                else:
                    fields["metaspace"] = character
            case _:
                raise ModelError(f"the tokenizer decodes in a way that is not supported: {step}")
    return DecodingRules(replacements=tuple(replacements), **fields)


def rules_of(backend: Backend) -> DecodingRules:
    """Of the tokenizer's decoder. Raises ModelError, see ``decoding_rules``."""
    decoder = backend.decoder
    return decoding_rules(None if decoder is None else msgspec.json.decode(decoder.__getstate__()))


def load_backend(folder: Path) -> Backend:
    """The tokenizer in a model's folder. Raises ModelError where there is none that can be read."""
    file = folder / "tokenizer.json"
    try:
        return Backend.from_file(str(file)) if file.exists() else _converted(folder)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"no tokenizer could be read from {folder}: {error}") from error


def _converted(folder: Path) -> Backend:
    """A tokenizer that exists only in an older format, converted by transformers (seconds: it imports torch)."""
    if not any((folder / name).exists() for name in OLDER_FILES):
        # transformers would make an empty one of config.json alone, which encodes every text to nothing.
        raise ModelError(f"it holds neither tokenizer.json nor {', '.join(OLDER_FILES)}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    backend: Backend = tokenizer.backend_tokenizer
    return backend
