"""Token ids to text as they arrive, and the search for stop strings in it. Both take linear time.

``Detokenizer``: bytes are held until they are whole characters. Joined, what it gives is what
``Tokenizer.decode`` gives for all ids, with one difference in the reader's favour: where a run of byte-fallback
tokens is not valid UTF-8 the library turns the whole run into U+FFFD, also the characters in it that are whole
and have long been sent; here only the wrong bytes become U+FFFD, one for each, as there.

``StopSearch``: Knuth, Morris and Pratt's search ("Fast pattern matching in strings", 1977), one automaton for each
string. The match that is complete first wins, and of several complete at the same character the longest: so the
answer does not depend on how the text was cut, and generation never has to go on to find it.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.tokenizer import Tokenizer


class Detokenizer:
    """The text of one choice.

    Some tokenizers write the space before a word into its token and leave it out at the beginning of a text. So it
    matters whether the output begins a text of its own, as an answer does, or ``continues`` that of the prompt.
    """

    __slots__ = ("_begun", "_errors", "_pending", "_piece", "_skipped", "_strip_left", "_tokenizer")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool,
        continues: bool = False,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """``shown``: special tokens that are part of the text in any case."""
        self._tokenizer = tokenizer
        self._piece = tokenizer.piece
        self._skipped = tokenizer.special_ids - shown if skip_special_tokens else frozenset()
        self._errors = tokenizer.rules.errors
        self._pending = b""
        self._begun = continues
        self._strip_left = 0 if continues else tokenizer.rules.strip[1]

    @property
    def incomplete(self) -> bool:
        """Whether bytes of an unfinished character are held."""
        return bool(self._pending)

    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty within a character."""
        if token_id in self._skipped:
            return ""
        piece = self._piece(token_id) if self._begun else self._tokenizer.first_piece(token_id)
        if piece is None:
            return ""
        self._begun = True
        if isinstance(piece, str):
            text = self._decode(b"", final=True) + piece if self._pending and piece else piece
        else:
            text = self._decode(piece, final=False)
        return self._strip(text) if self._strip_left and text else text

    def flush(self) -> str:
        """The remainder at the end of the output: bytes that never became a character."""
        text = self._decode(b"", final=True)
        return self._strip(text) if self._strip_left and text else text

    def _decode(self, data: bytes, *, final: bool) -> str:
        data = self._pending + data
        text, used = utf_8_decode(data, self._errors, final)
        self._pending = data[used:]
        return text

    def _strip(self, text: str) -> str:
        character = self._tokenizer.rules.strip[0]
        while self._strip_left and text.startswith(character):
            text = text[1:]
            self._strip_left -= 1
        if text:
            self._strip_left = 0
        return text


class StopStrings:
    """The stop strings of a request, made ready for searching; shared by its choices."""

    __slots__ = ("borders", "first", "strings")

    def __init__(self, strings: Sequence[str]) -> None:
        """``strings`` must not hold an empty one."""
        self.strings = tuple(dict.fromkeys(strings))
        self.borders = [_borders(string) for string in self.strings]
        firsts = "".join(dict.fromkeys(string[0] for string in self.strings))
        self.first = re.compile(f"[{re.escape(firsts)}]" if firsts else r"(?!)")


def _borders(pattern: str) -> list[int]:
    """For each length of a prefix, that of its longest proper prefix that is its suffix as well."""
    borders = [0] * (len(pattern) + 1)
    length = 0
    for position in range(1, len(pattern)):
        while length and pattern[position] != pattern[length]:
            length = borders[length]
        if pattern[position] == pattern[length]:
            length += 1
        borders[position + 1] = length
    return borders


@dataclass(frozen=True, slots=True)
class StopMatch:
    start: int
    """Offset of its first character in the whole text."""
    end: int
    string: str


class StopSearch:
    """Searches one choice's text."""

    __slots__ = ("_matched", "_seen", "_stops", "held")

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._matched = [0] * len(stops.strings)
        """For each string, how many of its characters the text now ends with."""
        self._seen = 0
        self.held = 0
        """Characters at the end of the text that may still become a stop string."""

    def feed(self, text: str, *, armed: bool) -> StopMatch | None:
        """The first match that ends in ``text``. Not armed, matches that end here do not count."""
        position = 0
        length = len(text)
        while position < length:
            if not self.held:
                found = self._stops.first.search(text, position)
                if found is None:
                    break
                position = found.start()
            complete = self._advance(text[position])
            position += 1
            if complete and armed:
                end = self._seen + position
                return StopMatch(end - len(complete), end, complete)
        self._seen += length
        return None

    def _advance(self, character: str) -> str:
        """Takes one character; returns the longest string it completes, or an empty one."""
        matched, complete, held = self._matched, "", 0
        for index, (string, borders) in enumerate(zip(self._stops.strings, self._stops.borders, strict=True)):
            count = matched[index]
            while count and string[count] != character:
                count = borders[count]
            if string[count] == character:
                count += 1
            if count == len(string):
                if count > len(complete):
                    complete = string
                count = borders[count]
            matched[index] = count
            held = max(held, count)
        self.held = held
        return complete
