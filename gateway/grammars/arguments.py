"""The arguments of a call as rules of a Lark grammar: a JSON object, or one argument after another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.grammar import json_rule, regex_rule, text_rule
from gateway.completion.formats.base import ArgumentSyntax, CallSyntax
from gateway.grammars.json_schema import ENFORCED
from gateway.grammars.keyword_values import wrong_value
from gateway.grammars.safe_strings import without
from gateway.grammars.spelling import ANY_TEXT, CannotSpellError, Spelling

ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
_DEFINITIONS = ("$defs", "definitions")
_SPELT_APART = frozenset(("type", "properties", "required", "additionalProperties"))
"""What may say something of arguments that are written one by one. Any other keyword is about the whole object."""
_PLAIN = frozenset(("type", "enum", "const", "minLength", "maxLength", "pattern"))
"""What may say something of a text that is written as it is."""
_ESCAPED, _CLASS = re.compile(r"\\."), re.compile(r"\[[^\]]*\]")
"""In a regular expression."""
_OPEN_NAME = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"


@dataclass(frozen=True, slots=True)
class _Argument:
    name: str
    schema: dict[str, Any]
    required: bool
    is_text: bool
    """Whether the parser takes what is written for a text as it is."""


def arguments_rules(name: str, schema: dict[str, Any], syntax: CallSyntax, spelling: Spelling) -> list[str]:
    """Rules, of which the one called ``name`` stands for arguments that the schema, one of an object, holds for.

    Raises ``CannotSpellError``.
    """
    if (found := wrong_value(schema)) is not None:
        raise CannotSpellError(*found)
    if syntax.arguments is None:
        return [f"{name}: {json_rule(without(syntax.never, schema))}"]
    return list(_OneByOne(name, schema, syntax, syntax.arguments, spelling).rules())


def loose_schema(schema: dict[str, Any] | None, syntax: CallSyntax) -> dict[str, Any]:
    """What is left of a schema that cannot be enforced: any object, with values of the types that the parser knows."""
    properties = (schema or {}).get("properties")
    if syntax.arguments is None or not isinstance(properties, dict):
        return ANY_ARGUMENTS
    names = [name for name in properties if re.fullmatch(syntax.arguments.name, name)]
    return ANY_ARGUMENTS | {"properties": {name: _loose_value(properties[name]) for name in names}}


def _loose_value(schema: Any) -> dict[str, Any]:
    return {"type": "string"} if isinstance(schema, dict) and schema.get("type") == "string" else {}


class _OneByOne:
    def __init__(
        self, name: str, schema: dict[str, Any], syntax: CallSyntax, arguments: ArgumentSyntax, spelling: Spelling
    ) -> None:
        self._name, self._schema, self._syntax, self._spelling = name, schema, syntax, spelling
        self._arguments = arguments
        self._definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}

    def rules(self) -> Iterator[str]:
        self._check_whole()
        arguments = list(self._declared())
        if not arguments and self._schema.get("additionalProperties", True) is not False:
            yield from self._open()
            return
        yield from self._in_order(arguments)
        for at, argument in enumerate(arguments):
            yield from self._argument(f"{self._name}-{at}", argument)

    def _check_whole(self) -> None:
        for keyword in self._schema:
            if keyword in ENFORCED and keyword not in _SPELT_APART:
                raise CannotSpellError(f".{keyword}", f"it cannot be enforced {self._why()}")
        for path, reference in _references(self._schema, ""):
            if not reference.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS)):
                raise CannotSpellError(path, f"only references to #/$defs can be followed {self._why()}")

    def _declared(self) -> Iterator[_Argument]:
        """In the schema's order; what is required and not declared comes last."""
        properties, required = self._schema.get("properties", {}), self._schema.get("required", [])
        others = self._schema.get("additionalProperties", True)
        undeclared = {name: others for name in required if name not in properties}
        for name, schema in (properties | undeclared).items():
            path = f".properties.{name[:64]}" if name in properties else ".required"
            if schema is False and name not in required:
                continue
            if schema is False or not re.fullmatch(self._arguments.name, name):
                raise CannotSpellError(path, f"an argument {name[:64]!r} cannot be written {self._why()}")
            schema = {} if schema is True else schema
            is_text = self._arguments.plain_text and name in properties and schema.get("type") == "string"
            yield _Argument(name, schema, name in required, is_text)

    def _in_order(self, arguments: list[_Argument]) -> Iterator[str]:
        """``…-from-I`` stands for the arguments from number I on where none was written before, ``…-more-I`` where one
        was.
        """
        name, between = self._name, self._spelling.rule(self._arguments.between)
        yield f"{name}: {name}-from-0"
        for at, argument in enumerate(arguments):
            this, first = f"{name}-{at}", f"{name}-{at} {name}-more-{at + 1}"
            skipped = "" if argument.required else f" | {name}-from-{at + 1}"
            yield f"{name}-from-{at}: {first}{skipped}"
            following = f"{between} {this}" if argument.required else f"({between} {this})?"
            yield f"{name}-more-{at}: {following} {name}-more-{at + 1}"
        yield f'{name}-from-{len(arguments)}: ""'
        yield f'{name}-more-{len(arguments)}: ""'

    def _open(self) -> Iterator[str]:
        """Of any names. Only what is no plain text has values that need no schema to be read."""
        name, spelling, written = self._name, self._spelling, self._arguments
        others = self._schema.get("additionalProperties", True)
        yield f"{name}: ({name}-any ({spelling.rule(written.between)} {name}-any)*)?"
        before, middle, after = (spelling.rule(text) for text in (written.before, written.middle, written.after))
        yield f"{name}-any: {before} {_OPEN_NAME} {middle} {self._json({} if others is True else others)} {after}"

    def _argument(self, rule: str, argument: _Argument) -> Iterator[str]:
        written = self._arguments
        begin = self._spelling.rule(f"{written.before}{argument.name}{written.middle}")
        if not argument.is_text:
            yield f"{rule}: {begin} {self._json(argument.schema)} {self._spelling.rule(written.after)}"
            return
        yield f"{rule}: {begin} {rule}-text"
        yield from self._plain_text(f"{rule}-text", argument)

    def _plain_text(self, rule: str, argument: _Argument) -> Iterator[str]:
        written, schema, path = self._arguments, argument.schema, f".properties.{argument.name[:64]}"
        for keyword in schema:
            if keyword in ENFORCED and keyword not in _PLAIN:
                raise CannotSpellError(f"{path}.{keyword}", f"it cannot be enforced {self._why()}")
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        end = written.after.strip()
        given = [schema["const"]] if "const" in schema else schema.get("enum")
        if given is not None and "pattern" in schema:
            raise CannotSpellError(f"{path}.pattern", f"it cannot be enforced beside given values {self._why()}")
        if given is not None:
            texts = [each for each in given if isinstance(each, str) and least <= len(each) and end not in each]
            texts = [each for each in texts if most is None or len(each) <= most]
            if not texts:
                raise CannotSpellError(path, f"none of its values can be written {self._why()}")
            yield f"{rule}: ({' | '.join(map(text_rule, texts))}) {self._spelling.rule(written.after)}"
            return
        length = "*" if not least and most is None else f"{{{least},{'' if most is None else most}}}"
        text = ANY_TEXT.replace("*", length)
        if "pattern" in schema:
            terminal = f"{rule.upper()}-PATTERN"
            text += f" & {terminal}"
            yield f"{terminal}: {found_in_text(schema['pattern'], f'{path}.pattern')}"
        yield self._spelling.up_to(rule, self._spelling.text_without([end], text), written.after)

    def _json(self, schema: dict[str, Any]) -> str:
        if any(_references(schema, "")):
            schema = schema | self._definitions
        return json_rule(without(self._syntax.never, schema))

    def _why(self) -> str:
        return "in the form in which this model writes arguments"


def found_in_text(pattern: str, path: str) -> str:
    """A terminal's body for texts in which a schema's pattern is found. Raises ``CannotSpellError``."""
    first, last = pattern.startswith("^"), pattern.endswith("$") and not _escaped_at_end(pattern[:-1])
    body = pattern[first : len(pattern) - last]
    outside = _CLASS.sub("", _ESCAPED.sub("", body))
    if "^" in outside or "$" in outside or ((first or last) and _has_choice(outside)):
        raise CannotSpellError(path, "where it stands in the text is not clear from its beginning and its end")
    parts = ["" if first else ANY_TEXT, regex_rule(body, "dw") if body else "", "" if last else ANY_TEXT]
    return " ".join(part for part in parts if part) or '""'


def _escaped_at_end(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _has_choice(pattern: str) -> bool:
    """Whether a bar stands outside of all groups."""
    depth = 0
    for character in pattern:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            return True
    return False


def _references(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, where to) of each ``$ref``."""
    if isinstance(node, list):
        for at, each in enumerate(node):
            yield from _references(each, f"{path}[{at}]")
    elif isinstance(node, dict):
        for key, each in node.items():
            if key == "$ref" and isinstance(each, str):
                yield f"{path}.$ref", each
            elif key not in ("enum", "const", "default", "examples"):
                yield from _references(each, f"{path}.{key[:64]}")
