"""Text of a model on its way to a terminal."""

from __future__ import annotations

_VISIBLE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}
_VISIBLE |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def harmless(text: str) -> str:
    """The same text with its control characters made visible: a model must not drive the terminal.

    That is all of C0 but line feed and tab, DEL, C1, and what turns the direction of text.
    """
    return text.translate(_VISIBLE)
