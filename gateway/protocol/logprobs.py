"""Log-probabilities in OpenAI's two formats: entries of chat, parallel arrays of plain completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from engine.messages import TokenLogprobs
from gateway.completion.detokenizer import Detokenizer
from gateway.completion.events import OutputToken
from gateway.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


def chat_entries(tokens: Sequence[OutputToken], tokenizer: Tokenizer) -> dict[str, Any]:
    """``logprobs`` of a chat choice: ``{"content": [{token, logprob, bytes, top_logprobs}], "refusal": null}``."""
    entries = []
    for token in tokens:
        found = token.logprobs
        if found is None:
            continue
        entry = _entry(token.id, found.logprob, tokenizer)
        entry["top_logprobs"] = [
            _entry(other, logprob, tokenizer) for other, logprob in zip(found.top_ids, found.top_logprobs, strict=True)
        ]
        entries.append(entry)
    return {"content": entries, "refusal": None}


def _entry(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token),
        "logprob": max(logprob, LOWEST),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def prompt_entries(
    ids: Sequence[int], scored: Sequence[TokenLogprobs], top: int, tokenizer: Tokenizer
) -> list[dict[str, dict[str, Any]] | None]:
    """``prompt_logprobs`` as vLLM writes it: for each prompt token but the first, token id to log-probability and rank.

    The token that stands there comes first, then the ``top`` likeliest; ``scored`` may hold more.
    """
    entries: list[dict[str, dict[str, Any]] | None] = [None]
    for token, found in zip(ids[1:], scored, strict=True):
        likeliest = zip(found.top_ids[:top], found.top_logprobs[:top], range(1, top + 1), strict=False)
        entry: dict[str, dict[str, Any]] = {}
        for each, logprob, rank in [(token, found.logprob, found.rank), *likeliest]:
            decoded = tokenizer.token_text(each)
            entry.setdefault(str(each), {"logprob": max(logprob, LOWEST), "rank": rank, "decoded_token": decoded})
        entries.append(entry)
    return entries


def token_string(token: int, tokenizer: Tokenizer) -> str:
    """A token's text; where it is part of a character, ``bytes:\\xe2\\x82`` as OpenAI writes it.

    So the keys of ``top_logprobs`` stay apart where U+FFFD would stand for several tokens.
    """
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class CompletionLogprobs:
    """Builds the parallel arrays of one plain completion choice, and knows where in its text each token begins."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens, continues=continues)
        self._offset = 0

    def prompt(
        self, ids: Sequence[int], scored: Sequence[TokenLogprobs], text: str, *, top: int | None = None
    ) -> dict[str, Any]:
        """Of an echoed prompt that reads ``text``; its first token has no log-probability.

        ``top``: how many of the likeliest to show, where ``scored`` may hold more.
        """
        offsets = prompt_offsets(ids, text, self._tokenizer, skip_special_tokens=self._skip_special_tokens)
        self.follow(text)
        if top is not None:
            scored = [_cut(each, top) for each in scored]
        return self._arrays(ids, [None, *scored], offsets)

    def follow(self, text: str) -> None:
        """The next output tokens come after a prompt that reads ``text``."""
        self._offset = len(text)

    def output(self, tokens: Sequence[OutputToken]) -> dict[str, Any]:
        """Of the next output tokens."""
        offsets = self.skip(tokens)
        return self._arrays([token.id for token in tokens], [token.logprobs for token in tokens], offsets)

    def skip(self, tokens: Sequence[OutputToken]) -> list[int]:
        """Takes the next output tokens as reported already; returns where each begins."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.feed(token.id))
        return offsets

    def _arrays(
        self, ids: Sequence[int], scored: Sequence[TokenLogprobs | None], offsets: Sequence[int]
    ) -> dict[str, Any]:
        return {
            "tokens": [token_string(token, self._tokenizer) for token in ids],
            "token_logprobs": [None if found is None else max(found.logprob, LOWEST) for found in scored],
            "top_logprobs": [
                None if found is None else self._top(token, found) for token, found in zip(ids, scored, strict=True)
            ],
            "text_offset": list(offsets),
        }

    def _top(self, token: int, found: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens, and the one that stands there in any case."""
        top = {
            token_string(other, self._tokenizer): max(logprob, LOWEST)
            for other, logprob in zip(found.top_ids, found.top_logprobs, strict=True)
        }
        return {token_string(token, self._tokenizer): max(found.logprob, LOWEST)} | top


def _cut(found: TokenLogprobs, top: int) -> TokenLogprobs:
    return replace(found, top_ids=found.top_ids[:top], top_logprobs=found.top_logprobs[:top])


def prompt_offsets(ids: Sequence[int], text: str, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> list[int]:
    """Where in ``text`` each of its tokens begins, in characters.

    A prompt that was given as text holds no trace of the special tokens that the tokenizer added, whether or not
    special tokens are shown: so both readings are tried. Where neither gives back the text (a normalizer has changed
    it), offsets are those of the first reading, cut to the text's length.
    """
    first: list[int] | None = None
    for skip in (skip_special_tokens, not skip_special_tokens):
        detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
        pieces: list[str] = []
        offsets: list[int] = []
        length = 0
        for token in ids:
            offsets.append(length)
            pieces.append(detokenizer.feed(token))
            length += len(pieces[-1])
        if "".join([*pieces, detokenizer.flush()]) == text:
            return offsets
        first = first or offsets
    return [min(offset, len(text)) for offset in first or []]


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Arrays of successive pieces of one choice as one object."""
    return {
        key: [item for part in parts for item in part[key]]
        for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
