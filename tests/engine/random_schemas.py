"""JSON Schemas at random, of the keywords that are enforced; each can be satisfied."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("name", "age", "tags", "kind", "at", "größe", 'with "quotes"', "a b", "x-1")
WORDS = ("red", "green", "blue", "ünïcode", "line\nbreak", "")
PATTERNS = ("^[a-z]{2,6}$", "^[A-Z][a-z]+ [0-9]{1,3}$", "^(foo|bar)-\\d+$", "[0-9]")
FORMATS = ("date", "date-time", "uuid", "ipv4", "email")


def random_schema(seed: int) -> dict[str, Any]:
    """The same for the same seed."""
    draw = random.Random(seed)
    definitions: dict[str, Any] = {}
    schema = _object(draw, 3, definitions) if draw.random() < 0.7 else _schema(draw, 3, definitions)
    return schema | ({"$defs": definitions} if definitions else {})


def _schema(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    simple = [_string, _number, _integer, _choice, _constant]
    nested = [_object, _array, _union, _reference, _map]
    make = draw.choice(simple + nested * 2 if depth > 0 else simple)
    return make(draw, depth - 1, definitions)


def _object(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    names = draw.sample(NAMES, draw.randint(0, 4))
    return {
        "type": "object",
        "description": "an object",
        "properties": {name: _schema(draw, depth, definitions) for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
        "additionalProperties": draw.random() < 0.2,
    }


def _map(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _schema(draw, depth, definitions)}


def _array(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    least = draw.randint(0, 2)
    schema = {"type": "array", "items": _schema(draw, depth, definitions), "minItems": least}
    if draw.random() < 0.7:
        schema["maxItems"] = least + draw.randint(0, 3)
    if draw.random() < 0.2:
        schema["prefixItems"] = [_schema(draw, 0, definitions)]
    return schema


def _union(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [_schema(draw, depth, definitions) for _ in range(draw.randint(1, 3))]}


def _reference(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    name = f"part{len(definitions)}"
    definitions[name] = {}
    definitions[name] = _schema(draw, depth, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _string(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    kind = draw.random()
    if kind < 0.2:
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    if kind < 0.4:
        return {"type": "string", "format": draw.choice(FORMATS)}
    least = draw.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 20)}


def _number(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    least = draw.randint(-100, 100) / 4
    bounds = {"minimum": least, draw.choice(("maximum", "exclusiveMaximum")): least + draw.randint(1, 500)}
    return {"type": "number", **draw.choice(({}, bounds))}


def _integer(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    least = draw.randint(-50, 50)
    choices: list[dict[str, Any]] = [{}, {"minimum": least, "maximum": least + 60}, {"exclusiveMinimum": least}]
    schema = {"type": "integer", **draw.choice(choices)}
    return schema | ({"multipleOf": draw.choice((2, 5))} if draw.random() < 0.2 else {})


def _choice(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    return {"enum": draw.sample([*WORDS, 1, 2.5, None, True, ["a"], {"k": 1}], draw.randint(1, 5))}


def _constant(draw: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    return draw.choice(({"const": draw.choice(WORDS)}, {"type": "boolean"}, {"type": ["null", "integer"]}))
