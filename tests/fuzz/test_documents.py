"""A server answers what an OpenAPI document allows as the document says; and what would find out, does.

``make fuzz`` sends ten thousand cases of each document; here they are few, the same each time.
"""

from __future__ import annotations

import copy
from typing import Any

import httpx
import jsonschema
import pytest
from fuzz_cases import Mending, Runner, Tally
from fuzz_documents import OPERATIONS, openai, own
from run_fuzz import KEY, LEAST_ACCEPTED, SETTINGS, run


@pytest.fixture(scope="module")
def served(start_server):
    """A server, and its document."""
    with start_server(*SETTINGS) as server:
        yield server, httpx.get(f"{server.url}/openapi.json", timeout=60).json()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_own_document_is_true(served):
    server, document = served
    tally = run(own(document), server.url, KEY, 150, 1)
    assert not tally.failures, "\n\n".join(f"{kind}\n{example}" for kind, example in tally.failures.items())
    assert tally.cases >= 120 and tally.accepted >= LEAST_ACCEPTED * tally.cases
    server.wait_idle(60)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["required", "status", "stream"])
def test_a_document_that_is_not_true_is_found_out(served, spoil):
    server, document = served
    document = own(document)
    schemas, operation = document["components"]["schemas"], document["paths"]["/tokenize"]["post"]
    label = "POST /tokenize"
    match spoil:
        case "required":
            schemas["Tokenized"]["required"].append("no_such_member")
        case "status":
            operation["responses"] = {"200": operation["responses"]["200"]}
        case "stream":
            label = "POST /v1/completions"
            schemas["CompletionRequest"]["properties"]["stream"] = {"const": True}
            schemas["CompletionRequest"]["required"].append("stream")
            schemas["TextCompletion"]["required"].append("no_such_member")
    tally = Tally()
    Runner(document, server.url, {}, tally).run(label, 4 if spoil == "status" else 12, 1, negative=spoil == "status")
    assert tally.failures


def test_what_nests_without_end_is_drawn_nested_twice():
    def reference(name: str) -> dict[str, str]:
        return {"$ref": f"#/components/schemas/{name}"}

    def holding(*names: str) -> dict[str, Any]:
        return {"type": "object", "required": ["in"], "properties": {"in": {"oneOf": [*map(reference, names)]}}}

    schemas = {
        "Leaf": {"type": "string"},
        "Box": holding("Leaf", "Box", "Bag"),
        "Bag": {"type": "array", "items": reference("Box")},
        "Top": holding("Leaf", "Box", "Bag"),
    }
    served = {"paths": {"/admin/replicas/{replica}/drain": {}, "/": {}}, "components": {"schemas": schemas}}
    before = copy.deepcopy(served)
    drawn = own(served)
    assert served == before
    assert drawn["components"]["schemas"] == schemas | {"Box": holding("Leaf")}


def test_a_published_document_is_cut_to_what_is_implemented():
    names = ("CreateCompletionResponse", "Unused", "Request")
    logprobs = {"properties": {name: {"items": {"type": "number"}} for name in ("token_logprobs", "top_logprobs")}}
    choices = {"items": {"properties": {"logprobs": {"anyOf": [logprobs, {"type": "null"}]}}}}
    schemas: dict[str, dict[str, Any]] = {name: {"properties": {"choices": choices}} for name in names}
    nullable = {"type": "string", "nullable": True}
    one_of = {"oneOf": [{"type": "string"}]}
    members = {"a": nullable, "b": nullable | {"enum": ["x"]}, "c": one_of | {"nullable": True}, "d": one_of}
    schemas["Request"]["properties"] |= members
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}}}
    operation = {"requestBody": body, "responses": {"200": {"description": ""}, "429": {"description": ""}}}
    paths = {path: {method: operation, "delete": operation} for path, method in OPERATIONS}
    published = {"openapi": "3.1.0", "info": {}, "paths": paths | {"/other": {}}, "components": {"schemas": schemas}}
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}}
    chat = {"post": {"responses": {"200": {}, "4XX": error, "503": error}}}
    errors = {"ErrorBody": {"properties": {"error": {"$ref": "#/components/schemas/ErrorDetails"}}}, "ErrorDetails": {}}
    document = openai(published, {"paths": {"/v1/chat/completions": chat}, "components": {"schemas": errors}})
    assert set(document["paths"]) == {f"/v1{path}" for path, _ in OPERATIONS}
    for path, method in OPERATIONS:
        assert document["paths"][f"/v1{path}"].keys() == {method}
        assert document["paths"][f"/v1{path}"][method]["responses"].keys() == {"200", "4XX"}
    assert set(document["components"]["schemas"]) == {"Request", "ErrorBody", "ErrorDetails"}
    members = document["components"]["schemas"]["Request"]["properties"]
    may_be_null = [name for name in "abcd" if jsonschema.Draft202012Validator(members[name]).is_valid(None)]
    assert may_be_null == ["a", "b", "c"]


def test_most_bodies_are_brought_closer_to_what_is_accepted():
    member = {"type": "string"}
    schemas = {"Body": {"properties": dict.fromkeys(("model", "prompt", "a", "b", "c"), member), "required": ["model"]}}
    mending = Mending("demo", 1024, {"components": {"schemas": schemas}})
    bodies = [{"model": "x", "prompt": "", "a": "", "b": "", "c": "", "z": str(n)} for n in range(100)]
    mended = [mending.mended({"$ref": "#/components/schemas/Body"}, body) for body in bodies]
    assert 10 < sum(after == before for after, before in zip(mended, bodies, strict=True)) < 30
    for body in mended:
        assert body in bodies or (body["model"] == "demo" and len(body) <= 3 and "z" not in body)
