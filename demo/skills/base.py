"""What a skill is: a generator of short exchanges, each with a key that decides on which side of the split it falls.

A key names what an exchange is about (operands, a fact with its phrasing, a tool name with its arguments), before any
noise is added to the user's words. One key in ten, chosen by a hash, is held out: training never sees it, in any form.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

Message = dict[str, Any]
HOLDOUT_ONE_IN = 10
KNOWN = "known"
"""Begins the key of what is always in training, and so never scored."""


@dataclass(frozen=True)
class Exchange:
    """One user question with everything up to the final answer.

    messages: user first, assistant last (a tool exchange has four messages).
    graded: how the last assistant message is judged: "exact", "json", "tool" or "story".
    """

    key: str
    messages: list[Message]
    graded: str = "exact"
    tools: list[dict[str, Any]] = field(default_factory=list)


Generator = Callable[[Random], Exchange]


def is_held_out(key: str) -> bool:
    """Whether a key belongs to the held-out tenth: a hash, so that it never depends on order or on seeds."""
    return not key.startswith(KNOWN) and zlib.crc32(("penstock-demo:" + key).encode()) % HOLDOUT_ONE_IN == 0


def draw(generate: Generator, rng: Random, held_out: bool) -> Exchange:
    """Draw from one side of the split by rejection."""
    for _ in range(2000):
        exchange = generate(rng)
        if is_held_out(exchange.key) == held_out:
            return exchange
    raise ValueError(f"{generate} has nothing on the {'held-out' if held_out else 'training'} side")


def stream(generate: Generator, rng: Random, held_out: bool) -> Iterator[Exchange]:
    """Draw without end."""
    while True:
        yield draw(generate, rng, held_out)


def ask(key: str, question: str, answer: str, graded: str = "exact") -> Exchange:
    """A plain question and its answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Exchange(key, messages, graded)


def noisy(rng: Random, text: str, typos: bool = True) -> str:
    """Write a question the way people type: lower case, no punctuation, an occasional slip, a polite word."""
    roll = rng.random()
    if roll < 0.5:
        return text
    if roll < 0.62:
        return text.lower()
    if roll < 0.72:
        return text.rstrip("?.!")
    if roll < 0.86:
        return text.lower().rstrip("?.!")
    if roll < 0.93:
        ending = text[-1] if text[-1] in "?.!" else ""
        body = text.rstrip("?.!")
        return rng.choice(
            [f"Please: {text}", f"{body}, please{ending}", f"{body} please", f"Hey, {text}", f"Hi! {text}"]
        )
    return slip(rng, text) if typos else text


def slip(rng: Random, text: str) -> str:
    """Drop, double or swap one letter somewhere after the first word."""
    places = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1 :]
    if kind == 1:
        return text[:i] + text[i] + text[i:]
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def phrase(rng: Random, templates: list[str], **values: object) -> tuple[int, str]:
    """Pick a template; returns its index (part of the key where phrasings are held out) and the filled text."""
    index = rng.randrange(len(templates))
    return index, templates[index].format(**values)


def bars(text: str) -> list[str]:
    """Read a list whose items stand between bars; lines may be broken anywhere between words."""
    return " ".join(text.split()).split("| ")


def answers(text: str) -> list[tuple[list[str], str]]:
    """Read a table of questions and answers: blocks of `answer`, a line `?`, then questions between bars."""
    table = []
    for block in text.strip().split("\n\n"):
        answer, questions = block.split("\n?")
        table.append((bars(questions), " ".join(answer.split())))
    return table


def articles(text: str) -> str:
    """An owl, not a owl."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def pseudo_word(rng: Random, low: int = 3, high: int = 8) -> str:
    """A word nobody knows, alternating consonants and vowels with some irregularity."""
    letters: list[str] = []
    vowel = rng.random() < 0.3
    for _ in range(rng.randint(low, high)):
        letters.append(rng.choice("aeiou" if vowel else "bcdfghjklmnprstvwxyzq"))
        vowel = not vowel if rng.random() < 0.85 else vowel
    return "".join(letters)
