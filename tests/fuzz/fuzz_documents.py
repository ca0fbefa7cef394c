"""The OpenAPI documents that requests are made from: the server's own, and the one that OpenAI publishes."""

from __future__ import annotations

import copy
import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Document = dict[str, Any]

COMMIT = "f85dbe223d40e1a31cba812ab2d755c7e98a92a3"
"""Of the repository openai/openai-openapi, licence MIT."""
SOURCE = f"https://raw.githubusercontent.com/openai/openai-openapi/{COMMIT}/openapi.json"
SHA256 = "bbfd19abcde0e7412da99378deb2a959ccdd3a812f97c9e35901921e8e973f9a"
CACHE = Path(__file__).parents[2] / "build/openai-openapi.json"
OPERATIONS = (
    ("/chat/completions", "post"),
    ("/completions", "post"),
    ("/models", "get"),
    ("/models/{model}", "get"),
)
"""Those of OpenAI's that the server implements."""


def published() -> Document:
    """OpenAI's document, downloaded once. Raises ``OSError``, or ``ValueError`` where it is another one."""
    if not CACHE.exists():
        CACHE.parent.mkdir(exist_ok=True)
        with urllib.request.urlopen(SOURCE, timeout=60) as response:
            CACHE.write_bytes(response.read())
    content = CACHE.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{CACHE} is not the document of {SOURCE}: delete it")
    document: Document = json.loads(content)
    return document


def own(served: Document) -> Document:
    """The server's own, as requests are drawn from it.

    Without what would end the run: a replica that drains takes no more requests. And without what makes drawing take
    ten times as long: what nests without end nests twice.
    """
    document = copy.deepcopy(served)
    del document["paths"]["/admin/replicas/{replica}/drain"]
    _cut_recursion(document["components"]["schemas"])
    return document


def _cut_recursion(schemas: dict[str, Any]) -> None:
    """Where a schema that leads back to itself has alternatives, those go that do so, too."""
    recursive = {name for name in schemas if name in _needed(schemas[name], schemas)}
    for name in recursive:
        for node in _objects(schemas[name]):
            for key in node.keys() & {"anyOf", "oneOf"}:
                kept = [each for each in node[key] if not recursive & set(_references(each))]
                node[key] = kept or node[key]


def openai(document: Document, served: Document) -> Document:
    """OpenAI's, of what is implemented, with this server's errors.

    What OpenAI's service does and its document denies is allowed as well: ``null`` for the log-probability of an echoed
    prompt's first token, and a stream of plain completions.
    """
    schemas = copy.deepcopy(document["components"]["schemas"])
    _read_nullable(schemas)
    errors = _errors(served["paths"]["/v1/chat/completions"]["post"])
    paths: dict[str, Any] = {}
    for path, method in OPERATIONS:
        operation = copy.deepcopy(document["paths"][path][method])
        operation["responses"] = {"200": operation["responses"]["200"], **errors}
        operation.pop("x-oaiMeta", None)
        operation.pop("security", None)
        paths.setdefault(f"/v1{path}", {})[method] = operation
    # Its text says that a stream is of the same shape, but for the finish reason, which is null on the way.
    answers = paths["/v1/completions"]["post"]["responses"]["200"].setdefault("content", {})
    answers["text/event-stream"] = {
        "schema": {"type": "object", "required": ["id", "object", "created", "model", "choices"]}
    }
    logprobs = schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]["logprobs"]["anyOf"]
    members = next(each["properties"] for each in logprobs if "properties" in each)
    for name in ("token_logprobs", "top_logprobs"):
        members[name]["items"] = {"anyOf": [members[name]["items"], {"type": "null"}]}
    schemas |= {name: served["components"]["schemas"][name] for name in ("ErrorBody", "ErrorDetails")}
    return {
        "openapi": document["openapi"],
        "info": document["info"],
        "paths": paths,
        "components": {"schemas": _needed(paths, schemas)},
    }


def _read_nullable(node: Any) -> None:
    """The document is of OpenAPI 3.1, and says ``nullable`` here and there, as 3.0 did."""
    if isinstance(node, dict):
        if node.get("nullable") is True:
            if isinstance(node.get("type"), str):
                node["type"] = [node["type"], "null"]
            if None not in node.get("enum", [None]):
                node["enum"] = [*node["enum"], None]
            for key in node.keys() & {"$ref", "oneOf", "anyOf"}:
                node["anyOf"] = [{key: node.pop(key)}, {"type": "null"}]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _read_nullable(child)


def _errors(operation: dict[str, Any]) -> dict[str, Any]:
    return {status: answer for status, answer in operation["responses"].items() if status.startswith("4")}


def _needed(node: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas that it leads to."""
    found: dict[str, Any] = {}
    pending = list(_references(node))
    while pending:
        name = pending.pop()
        if name not in found:
            found[name] = schemas[name]
            pending += _references(schemas[name])
    return found


def _references(node: Any) -> Iterator[str]:
    for each in _objects(node):
        reference = each.get("$ref")
        if isinstance(reference, str):
            yield reference.rpartition("/")[2]


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _objects(child)
