"""Structural tags as a Lark grammar: free text in which certain words begin a part that follows a schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.grammar import json_rule, text_rule


@dataclass(frozen=True, slots=True)
class Tag:
    begin: str
    schema: dict[str, Any]
    end: str


def trigger_of(tag: Tag, triggers: Sequence[str]) -> str | None:
    """The one that the tag begins with, the shortest where there are several: it is the first to be there."""
    return min((each for each in triggers if tag.begin.startswith(each)), key=len, default=None)


def tags_grammar(tags: Sequence[Tag], triggers: Sequence[str]) -> str:
    """Lark. Once a trigger is written, a tag that begins with it follows; text and tags may alternate.

    Every tag begins with a trigger.
    """
    names = " | ".join(f"tag_{number}" for number in range(len(tags)))
    lines = [f"start: ({names})* tail", "tail: TEXT", "TEXT: /(.|\\n)*/"]
    for number, tag in enumerate(tags):
        trigger = trigger_of(tag, triggers)
        assert trigger is not None, "it was checked"
        rest = [text_rule(text) for text in (tag.begin[len(trigger) :], tag.end)]
        first, last = (part if part != '""' else "" for part in rest)
        lines.append(f"head_{number}[lazy]: TEXT {text_rule(trigger)}")
        lines.append(f"tag_{number}: head_{number} {first} {json_rule(tag.schema)} {last}")
    return "\n".join(lines) + "\n"
