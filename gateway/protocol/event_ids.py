"""Event ids: how much of every choice the reader has seen, so that one id is enough to go on with all of them.

An id has a part for each choice, in index order, joined by dots: ``-`` nothing yet, ``12`` the text and scores that
twelve output tokens have released (what comes before them, a role or an echoed prompt, included), ``12f`` its finish
reason too. ``end`` is the usage chunk's, after which only ``[DONE]`` comes. The tokens are counted, never the events:
a stream that is resumed may be cut into other events, and ids of one cut hold in every other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from gateway.errors import InvalidRequest

ResumeMode = Literal["body", "sse"]
"""Where an event's id stands: in the chunk as ``event_id``, or in a line ``id:`` before it."""

HEADER = "X-Penstock-Resume"

_END = "end"
_PART = re.compile(r"-|(\d{1,9})(f?)", re.ASCII)


class EventIds:
    """What a reader has seen, moved on by each event that is sent."""

    def __init__(self, num_choices: int) -> None:
        self._marks = [-1] * num_choices
        """For each choice -1, twice its number of tokens, or one more than that after the finish reason."""
        self._parts = [b"-"] * num_choices
        self.over = False
        """Whether only ``[DONE]`` is left."""

    @classmethod
    def parse(cls, text: str, num_choices: int, param: str) -> EventIds:
        """What the reader had seen that names this id. Raises ``InvalidRequest`` naming ``param``."""
        ids = cls(num_choices)
        if text == _END:
            ids._marks = [2**31] * num_choices
            ids.over = True
            return ids
        parts = text.split(".", num_choices)
        found = [_PART.fullmatch(part) for part in parts]
        if len(parts) != num_choices or not all(found):
            text = f"Invalid '{param}': it must be the id of an event of this stream."
            raise InvalidRequest(text, param=param, code="invalid_event_id")
        for index, match in enumerate(found):
            if match is not None and match[1]:
                ids.advance(index, int(match[1]), ended=bool(match[2]))
        return ids

    @property
    def num_tokens(self) -> Sequence[int]:
        """Output tokens of each choice that the reader knows of."""
        return [max(mark, 0) // 2 for mark in self._marks]

    def advance(self, index: int, num_tokens: int, *, ended: bool = False) -> bool:
        """An event brings one choice so far. False where the reader has seen that: then it must not be sent."""
        mark = 2 * num_tokens + ended
        if mark <= self._marks[index]:
            return False
        self._marks[index] = mark
        self._parts[index] = b"%df" % num_tokens if ended else b"%d" % num_tokens
        return True

    def knows(self, index: int, num_tokens: int, *, ended: bool) -> bool:
        """Whether the reader has seen all of a choice up to there."""
        return 2 * num_tokens + ended <= self._marks[index]

    def finish(self) -> bool:
        """The usage chunk; False where the reader has seen it."""
        first = not self.over
        self.over = True
        return first

    @property
    def id(self) -> bytes:
        """Of an event after which this has been seen."""
        return _END.encode() if self.over else b".".join(self._parts)


def resume_mode(value: str | None) -> ResumeMode | None:
    """Of the header's value. Raises ``InvalidRequest``."""
    match value:
        case None:
            return None
        case "body" | "sse":
            return value
        case _:
            raise InvalidRequest(f"Invalid '{HEADER}': it must be body or sse.", param=HEADER, code="invalid_value")
