"""JSON on request: from a list of fields, from a sentence, and as an array."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from demo.skills.base import Exchange, ask, phrase
from demo.skills.words import ANIMALS, CITIES, COLORS, FOODS, NAMES, THINGS

FIELDS: dict[str, list[Any]] = {
    "name": list(NAMES),
    "age": list(range(1, 100)),
    "city": list(CITIES),
    "color": list(COLORS),
    "pet": list(ANIMALS),
    "food": list(FOODS),
    "count": list(range(100)),
    "price": list(range(1, 100)),
    "item": list(THINGS),
    "id": list(range(1000)),
    "active": [True, False],
    "score": list(range(101)),
    "tag": list(ANIMALS),
    "done": [True, False],
    "size": ["small", "medium", "large"],
}
MAKE = [
    "Give me a JSON object with {f}.",
    "Write JSON with {f}.",
    "Return JSON with {f}.",
    "Make a JSON object with {f}.",
    "JSON with {f}",
    "Answer in JSON: {f}.",
    "Create a JSON object with {f}.",
    "Output only JSON with {f}.",
    "As JSON: {f}",
    "Convert to JSON: {f}",
]
ARRAY = [
    "Make a JSON array of {f}.",
    "Write {f} as a JSON array.",
    "Give me a JSON list of {f}.",
    "Return {f} as a JSON list.",
]
PEOPLE = [
    ("{name} is {age} years old and lives in {city}.", ["name", "age", "city"]),
    ("{name} is {age} years old.", ["name", "age"]),
    ("{name} lives in {city} and likes {food}.", ["name", "city", "food"]),
    ("{name} has a {pet} and likes the color {color}.", ["name", "pet", "color"]),
    ("{name}, {age}, has {count} {item}.", ["name", "age", "count", "item"]),
]
EXTRACT = [
    "Extract {k} as JSON: {s}",
    "Extract {k} as JSON from this text: {s}",
    "{s} Give me {k} as JSON.",
    "Return {k} as a JSON object. Text: {s}",
]


def enumerate_words(words: list[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def structured(rng: Random) -> Exchange:
    """One line of valid JSON and nothing else."""
    kind = rng.choices(["fields", "text", "array"], [5, 4, 2])[0]
    if kind == "fields":
        value: Any = {k: rng.choice(FIELDS[k]) for k in rng.sample(list(FIELDS), rng.randint(1, 4))}
        joint = rng.choice([" ", " ", " = ", ": ", " set to "])
        parts = [f"{k}{joint}{v if not isinstance(v, bool) else str(v).lower()}" for k, v in value.items()]
        question = phrase(rng, MAKE, f=enumerate_words(parts))[1]
    elif kind == "text":
        template, keys = rng.choice(PEOPLE)
        value = {k: rng.choice(FIELDS[k]) for k in keys}
        sentence = template.format(**value)
        question = phrase(rng, EXTRACT, k=enumerate_words(keys), s=sentence)[1]
    else:
        source = rng.choice([COLORS, NAMES, ANIMALS, list(range(100))])
        value = rng.sample(source, rng.randint(2, 5))
        question = phrase(rng, ARRAY, f=enumerate_words([str(v) for v in value]))[1]
    answer = json.dumps(value)
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:].rstrip(".")
    return ask(f"json:{answer}", question, answer, "json")


SKILLS = {"json": structured}
