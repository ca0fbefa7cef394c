"""Texts that mark where something begins or ends, and the search for them in text that comes in pieces."""

from __future__ import annotations

import re


class Markers:
    """A set of markers.

    No first character of a marker may occur again in any of them: then no two can overlap, and which one is found
    first does not depend on how much of the text is there.
    """

    __slots__ = ("_firsts", "_longest", "_pattern", "texts")

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        if any(first in text[1:] for first in {text[0] for text in texts} for text in texts):
            raise ValueError(f"markers could overlap: {texts}")
        self._longest = max(map(len, texts), default=0)
        self._firsts = frozenset(text[0] for text in texts)
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")

    def search(self, text: str, at: int) -> re.Match[str] | None:
        """The first one in ``text`` from offset ``at`` on."""
        return self._pattern.search(text, at)

    def held(self, text: str, at: int) -> int:
        """How many characters at the end of ``text``, which holds no marker, may be the beginning of one."""
        for start in range(max(at, len(text) - self._longest + 1), len(text)):
            if text[start] in self._firsts:
                rest = text[start:]
                if any(marker.startswith(rest) for marker in self.texts):
                    return len(rest)
        return 0
