"""Grammar: what an answer has to look like, as gateway, engine and ranks tell it to each other.

The gateway has it tried before a request is accepted (``engine.grammar_trial``); who samples compiles it again.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

GrammarKind = Literal["json_schema", "regex", "lark"]

WHITESPACE = r" |\n[ \t]{0,32}"
"""Between the parts of a JSON text, at most once: a space, or a line break and its indentation. Without an end to it
a model may write white space until its tokens are used up."""
JSON_OPTIONS = {"whitespace_pattern": WHITESPACE, "coerce_one_of": False, "lenient": False}
LARK_OPTIONS = '%llguidance {"no_forcing": true}\n'
"""The tokenization of a text that is forced is left to the model. What may come next then follows from the bytes so
far alone, and a matcher that is folded anew allows what the old one did."""


class GrammarError(ValueError):
    """A grammar that cannot be used, or went beyond a limit. ``str()`` of it is for the caller to read."""


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """Compared and hashed by value: equal ones are compiled once."""

    kind: GrammarKind
    source: str
    """A JSON Schema as JSON text; a regular expression that matches the whole answer, as Rust's ``regex`` writes them;
    or a grammar in llguidance's dialect of Lark, with a rule ``start``."""

    def lark(self) -> str:
        """The same as a Lark grammar. Raises GrammarError where the source is not of its kind's form."""
        return LARK_OPTIONS + (self.source if self.kind == "lark" else f"start: {self.rule()}\n")

    def rule(self) -> str:
        """What stands for it in a rule of another Lark grammar. Raises GrammarError as ``lark``."""
        match self.kind:
            case "json_schema":
                return json_rule(_schema(self.source))
            case "regex":
                return regex_rule(self.source)
            case "lark":
                return f"%lark {{\n{self.source}\n}}"


def json_rule(schema: dict[str, Any]) -> str:
    """What a Lark rule says for a JSON text by this schema, with the white space that answers may have."""
    return "%json " + msgspec.json.encode(schema | {"x-guidance": JSON_OPTIONS}).decode()


def regex_rule(pattern: str, ascii_only: str = "") -> str:
    """What a Lark rule says for a text that this matches from its beginning to its end.

    ``ascii_only``: letters of the classes that are so, such as ``dw`` for digits and words as JavaScript has them.
    """
    from llguidance import regex_to_lark

    if not pattern:
        raise GrammarError("the regular expression is empty")
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise GrammarError("the regular expression ends in a lone backslash")
    return f"/{regex_to_lark(pattern, ascii_only)}/"


def text_rule(text: str) -> str:
    """What a Lark rule says for this text alone."""
    # Unlike JSON, Lark has no place for a raw DEL.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _schema(source: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(source, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise GrammarError(f"the schema is no JSON object: {error}") from None
