"""Why a grammar cannot be compiled, in words for the caller: what llguidance says, without what is its own affair."""

from __future__ import annotations

import re

LONGEST = 300
_EXCERPT = re.compile(r"^\s*\d+ \| .*", re.MULTILINE | re.DOTALL)
"""llguidance shows the lines around the place, of a grammar that the caller has never seen."""
_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
_NAMES = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|(?P<name>[\w-]+)')
"""In GBNF, and what else may hold letters: texts, classes of characters and comments."""
_IN_REGEX = re.compile(r"regex parse error:\s*\n(?P<text>.*?)\n\s*\^+\s*\nerror: (?P<why>[^\n]*)", re.DOTALL)
_INNARDS = re.compile(r"panick?|unwrap|::|\.rs\b|\b[uif](?:8|16|32|64|size)\b|assertion|__|0x[0-9a-f]|<non-verbose/>")

_WORDS = (
    (r"NoExtension.*", "no text matches it"),
    (r".*lookarounds not supported yet.*", "word boundaries and look-around are not supported in expressions"),
    (r".*(?:TooComplex|fuel|too big).*", "it needs more states than are allowed here (--max-grammar-states)"),
    (r"oneOf constraints are not supported.*", "'oneOf' is enforced only where its members can be told apart"),
    (r"Invalid type: (.*)", r"'\1' is no type of JSON"),
    (r"Unknown format: (.*)", r"the format '\1' is not known"),
    (r"Resource '(.*?)' is not present.*", r"'\1' is no version of JSON Schema that is known"),
    (r"invalid multiple of.*", "'multipleOf' must be more than 0"),
    (r"Expected f64 for '(\w+)'.*", r"'\1' must be a number"),
    (r"Expected positive integer for '(\w+)', got (.*)", r"'\1' must be a whole number of at least 0, but is \2"),
    (r"Expected (\w+) for '(\w+)'.*", r"'\2' must be of type \1"),
    (r"patternProperty regexes /(.*)/ and /(.*)/ are not disjoint", r"one name may match both '\1' and '\2'"),
    (r"Unsatisfiable schema: (.*)", r"no value is valid: \1"),
    (r"lexer error", "something is no part of a grammar, such as text or an expression that is not closed"),
    (r"failed to parse \"(%\w+)\": .*", r"what follows \1 is no JSON"),
    (r"unknown special token: \"(.*?)\".*", r"the model has no special token \1"),
    (r"(Unknown common regex: \S+?);.*", r"\1"),
)


def readable(error: str, *, own_lines: int | None = None) -> str:
    """What llguidance says of a grammar, as the end of a sentence.

    ``own_lines``: how many lines stand before the caller's own, where those are what is compiled: the place is told.
    """
    text = _EXCERPT.sub("", error).strip()
    place = _PLACE.match(text)
    text = _PLACE.sub("", text)
    if (found := _IN_REGEX.search(text)) is not None:
        expression = _joined(found["text"]).replace("\\/", "/")
        text = f"the expression '{_cut(expression, 80)}': {found['why']}"
    else:
        text = _joined(text)
        text = re.sub(r"^(?:failed to compile JSON schema|invalid regex .*? \(in regex\)): ", "", text)
        text = re.sub(r" \(at .*\)$", "", text)
        for pattern, words in _WORDS:
            if (match := re.fullmatch(pattern, text)) is not None:
                text = match.expand(words)
                break
    if not text or _INNARDS.search(text):
        text = "the compiler cannot make sense of it"
    if place is not None and own_lines is not None and (line := int(place[1]) - own_lines) > 0:
        text = f"line {line}, column {place[2]}: {text}"
    return _cut(text, LONGEST)


def readable_gbnf(error: Exception, source: str) -> str:
    """The same of what the translator of GBNF raises."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, IndexError):
        return f"{_place(source, len(source))}it ends in the middle of an escape"
    text, where = str(error), ""
    if (at := getattr(error, "pos", None)) is not None:
        text, where = text.removesuffix(f" at {at}"), _place(source, at.pos)
    elif (found := re.match(r"Rule '([^']*)' ", text)) is not None:
        where = place_of_name(found[1], source)
    return _cut(_joined(f"{where}{text[:1].lower()}{text[1:]}"), LONGEST)


def place_of_name(name: str, source: str) -> str:
    """``line 1, column 10: `` where a rule of that name is first named in GBNF; empty where none is."""
    found = next((each for each in _NAMES.finditer(source) if each["name"] == name), None)
    return _place(source, found.start()) if found is not None else ""


def _place(source: str, at: int) -> str:
    return f"line {source.count(chr(10), 0, at) + 1}, column {at - source.rfind(chr(10), 0, at)}: "


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines())


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
