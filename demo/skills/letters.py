"""Spelling, reversing and counting letters.

A word in double quotes reaches the model letter by letter (see `demo/tokenizer.py`), so any quoted word can be spelled.
Without quotes it is one or a few tokens whose letters the model has to know by heart.
"""

from __future__ import annotations

from random import Random

from demo.skills.base import Exchange, ask, noisy, phrase, pseudo_word
from demo.skills.words import NAMES, SPELLABLE

SPELL = [
    "Spell {w}.",
    "Spell the word {w}.",
    "How do you spell {w}?",
    "Can you spell {w}?",
    "Please spell {w}.",
    "Spell {w} letter by letter.",
    "Write {w} letter by letter.",
]
REVERSE = [
    "Reverse {w}.",
    "Reverse the word {w}.",
    "Spell {w} backwards.",
    "What is {w} backwards?",
    "Write {w} backwards.",
    "Say {w} backwards.",
    "What is {w} reversed?",
    "Can you reverse {w}?",
]
COUNT = ["How many letters are in {w}?", "How many letters does {w} have?", "Count the letters in {w}."]
FIRST = ["What is the {p} letter of {w}?", "Which letter is {p} in {w}?", "Tell me the {p} letter of {w}."]


def pick(rng: Random) -> tuple[str, str]:
    """A word and how the question shows it (quoted words are often invented)."""
    quoted = rng.random() < 0.6
    if rng.random() < (0.6 if quoted else 0.08):
        word = pseudo_word(rng, 2, 9)
    elif rng.random() < 0.12:
        word = rng.choice(NAMES)
    else:
        word = rng.choice(SPELLABLE)
    if rng.random() < 0.05:
        word = word.capitalize()
    return word, f'"{word}"' if quoted else word


def ask_about(
    rng: Random, kind: str, templates: list[str], answer: str, word: str, shown: str, **more: str
) -> Exchange:
    """Fill a template, keep the word as it is when the rest is written carelessly."""
    index, question = phrase(rng, templates, w="\0", **more)
    question = noisy(rng, question, typos=False).replace("\0", shown)
    quoted = shown != word
    return ask(f"{kind}:{word}:{'quoted' if quoted else index}", question, answer)


def spelling(rng: Random) -> Exchange:
    """c-a-t."""
    word, shown = pick(rng)
    return ask_about(rng, "spell", SPELL, f"{'-'.join(word)}.", word, shown)


def reversing(rng: Random) -> Exchange:
    """Spelled out first, so that the model can read the letters back."""
    word, shown = pick(rng)
    return ask_about(rng, "reverse", REVERSE, f'{"-".join(word)} backwards is "{word[::-1]}".', word, shown)


def letters(rng: Random) -> Exchange:
    """How many letters; the first and the last one."""
    word, shown = pick(rng)
    if rng.random() < 0.5:
        return ask_about(rng, "length", COUNT, f"{'-'.join(word)} has {len(word)} letters.", word, shown)
    place = rng.choice(["first", "last"])
    letter = word[0] if place == "first" else word[-1]
    return ask_about(rng, place, FIRST, f'{"-".join(word)}: the {place} letter is "{letter}".', word, shown, p=place)


SKILLS = {"spelling": spelling, "reversing": reversing, "letters": letters}
