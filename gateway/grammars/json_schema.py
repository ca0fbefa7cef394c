"""JSON Schemas as requests bring them: which keywords are enforced, and none that would be passed over in silence."""

from __future__ import annotations

import difflib
from typing import Any
from urllib.parse import unquote

from gateway.errors import InvalidRequest

ENFORCED = frozenset(
    (
        *("$ref", "allOf", "anyOf", "oneOf", "const", "enum", "type"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
        *("properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    )
)
ANNOTATIONS = frozenset(
    (
        *("$anchor", "$comment", "$defs", "definitions", "$id", "id", "$schema"),
        *("title", "description", "default", "deprecated", "examples", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "discriminator"),
    )
)
"""They say nothing of which texts are valid. ``discriminator`` is OpenAPI's hint beside ``oneOf``; names that begin
with ``x-`` are of this kind, too."""
KNOWN = frozenset(
    (
        *("not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies", "propertyNames"),
        *("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"),
        *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary", "contentSchema"),
    )
)
"""Keywords of the standard that cannot be enforced."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_SINGLE = ("items", "additionalItems", "additionalProperties")


def check_schema(schema: dict[str, Any], param: str, max_depth: int) -> None:
    """Raises InvalidRequest naming the place of what cannot be enforced, or is nested too deeply.

    What a reference names is looked at wherever it stands. Whether keywords have values that make sense is for the
    compiler to say.
    """
    pending: list[tuple[Any, str, int]] = [(schema, param, 1)]
    named: list[tuple[Any, str, int]] = []
    seen: set[int] = set()
    while pending or named:
        # Behind a reference there may be what is no schema where it stands, such as a member of an annotation.
        node, path, depth = pending.pop() if pending else named.pop()
        if isinstance(node, bool) or id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node, dict):
            raise _invalid(path, "a schema is an object or a boolean")
        if depth > max_depth:
            limit = (
                f"schemas may be nested {max_depth} levels deep here (--max-schema-depth), and this is level {depth}"
            )
            raise _invalid(path, limit)
        _check_keywords(node, path)
        if node is not schema:
            _check_base(node, path, old="draft-0" in str(schema.get("$schema")) or "$schema" in node)
        if isinstance(reference := node.get("$ref"), str):
            named.append((_named(schema, reference, path), param + reference[1:].replace("/", ".")[:256], depth + 1))
        pending.extend((child, f"{path}.{place}", depth + 1) for place, child in children(node))


def _check_keywords(node: dict[str, Any], path: str) -> None:
    for keyword in node:
        if keyword in ENFORCED or keyword in ANNOTATIONS:
            continue
        if keyword == "x-guidance" or not keyword.startswith("x-"):
            raise _unsupported(path, keyword)
    reference = node.get("$ref")
    if isinstance(reference, str) and reference != "#" and not reference.startswith("#/"):
        raise _invalid(f"{path}.$ref", "only references within the schema, #/…, are followed")


def _check_base(node: dict[str, Any], path: str, *, old: bool) -> None:
    """Below an id of its own, the compiler looks for ``#/…`` in that part of the schema; here it is the whole of it.

    ``old``: by the word ``id``, too, as in drafts of long ago.
    """
    for keyword in ("$id", "id") if old else ("$id",):
        if isinstance(node.get(keyword), str):
            raise _invalid(f"{path}.{keyword}", "only the schema as a whole may have an id")


def _named(schema: dict[str, Any], reference: str, path: str) -> Any:
    try:
        return resolve(schema, reference)
    except KeyError:
        raise _invalid(f"{path}.$ref", f"the schema has nothing at '{reference[:64]}'") from None


def resolve(schema: dict[str, Any], reference: str) -> Any:
    """What stands where a JSON pointer, in the form of a fragment, says (RFC 6901). Raises ``KeyError``."""
    found: Any = schema
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise KeyError(name)
    return found


def children(node: dict[str, Any]) -> list[tuple[str, Any]]:
    """(place, schema) of the schemas within one."""
    found: list[tuple[str, Any]] = []
    for keyword in _MAPS:
        if isinstance(value := node.get(keyword), dict):
            found += [(f"{keyword}.{name[:64]}", child) for name, child in value.items()]
    for keyword in (*_LISTS, *_SINGLE):
        value = node.get(keyword)
        if isinstance(value, list):
            found += [(f"{keyword}[{at}]", child) for at, child in enumerate(value)]
        elif keyword in _SINGLE and value is not None:
            found.append((keyword, value))
    return found


def _unsupported(path: str, keyword: str) -> InvalidRequest:
    name = keyword[:64]
    if keyword in KNOWN or keyword == "x-guidance":
        return _invalid(f"{path}.{name}", f"the keyword '{name}' cannot be enforced", code="unsupported_keyword")
    nearest = difflib.get_close_matches(name, [*ENFORCED, *ANNOTATIONS, *KNOWN], n=1)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ", and would be passed over"
    return _invalid(f"{path}.{name}", f"the keyword '{name}' is not known{hint}", code="unsupported_keyword")


def _invalid(path: str, why: str, code: str = "invalid_json_schema") -> InvalidRequest:
    ending = "" if why.endswith("?") else "."
    return InvalidRequest(f"Invalid '{path}': {why}{ending}", param=path, code=code)
