"""Text in a Lark grammar where some of it is special tokens, which grammars tell from text that is spelt the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from engine.grammar import text_rule

TokenOf = Callable[[str], int | None]
"""Text → the special token that it is, or None."""

ANY_TEXT = "/(?s:.*)/"


class CannotSpellError(Exception):
    """A schema that the format leaves no way to enforce."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path
        """Within the schema; begins with a dot where it is not empty."""


class Spelling:
    """How the markers of a model's formats are spelt."""

    def __init__(self, markers: Iterable[str], token_of: TokenOf) -> None:
        self._tokens = {text: token for text in markers if (token := token_of(text)) is not None}

    def rule(self, text: str) -> str:
        """What stands for the text in a rule; nothing for none."""
        parts: list[str] = []
        while text:
            at, marker = min(
                ((text.find(each), each) for each in self._tokens if each in text), default=(len(text), "")
            )
            parts += [text_rule(text[:at])] if at else []
            parts += [f"<[{self._tokens[marker]}]>"] if marker else []
            text = text[at + len(marker) :]
        return " ".join(parts)

    def text_without(self, markers: Iterable[str], text: str = ANY_TEXT) -> str:
        """What a terminal says for ``text``, another terminal's body, that holds none of these as they are spelt."""
        spelt = "|".join(literally(marker) for marker in sorted(set(markers)))
        return f"{text} & ~/(?s:.*)({spelt})(?s:.*)/" if spelt else text

    def is_token(self, marker: str) -> bool:
        return marker in self._tokens

    def up_to(self, name: str, text: str, marker: str) -> str:
        """A rule of that name for what a terminal's body ``text`` stands for, up to the marker, and the marker."""
        at = min((marker.find(each) for each in self._tokens if each in marker), default=-1)
        terminal = name.upper()
        if at < 0:
            return f"{name}[lazy]: {terminal} {text_rule(marker)}\n{terminal}: {text}"
        # What stands before the token is part of the terminal, which would else take it for text.
        whole, lead = (f"{terminal}-WHOLE", f"{terminal} {text_rule(marker[:at])}") if at else (terminal, "")
        lines = [f"{name}: {whole} {self.rule(marker[at:])}", f"{terminal}: {text}"]
        return "\n".join([*lines, f"{whole}: {lead}"] if at else lines)


def literally(text: str) -> str:
    """As a regular expression of Lark's."""
    return re.escape(text).replace("/", "\\/")
