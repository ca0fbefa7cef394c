"""Health, readiness, version, metrics, models, documents, and the shape of everything that is not found."""

from __future__ import annotations

import jsonschema
import pytest
from http_for_tests import CONTEXT, serving

from gateway.protocol.limits import Limits


async def test_health_is_503_only_when_given_up():
    failure = None
    async with serving(failure=lambda: failure) as server:
        server.lifecycle.ready = False
        server.lifecycle.info = None
        response = await server.client.get("/health")
        assert (response.status_code, response.json()) == (200, {"status": "ok", "reason": None})
        failure = "the engine failed 5 times"
        response = await server.client.get("/health")
        assert (response.status_code, response.json()) == (503, {"status": "failed", "reason": failure})


async def test_ready_says_whether_work_is_welcome():
    async with serving() as server:
        response = await server.client.get("/ready")
        assert (response.status_code, response.json()) == (
            200,
            {"ready": True, "replicas_up": 2, "replicas": 3, "reason": None},
        )
        server.lifecycle.ready, server.lifecycle.draining = False, True
        response = await server.client.get("/ready")
        assert response.status_code == 503
        assert response.json()["ready"] is False
        assert response.json()["reason"] == "the server is shutting down"
        assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("2", "2000")
        server.lifecycle.draining = False
        assert (await server.client.get("/ready")).json()["reason"] == "the engine is starting"


async def test_ready_tells_why_there_is_no_engine():
    async with serving(failure=lambda: "out of memory") as server:
        server.lifecycle.ready = False
        assert (await server.client.get("/ready")).json()["reason"] == "out of memory"


async def test_version_and_metrics():
    async with serving() as server:
        assert (await server.client.get("/version")).json() == {"version": "1.2.3"}
        response = await server.client.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert response.text == "# HELP up application/openmetrics-text\n"
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_models_are_listed_by_every_name():
    async with serving() as server:
        models = (await server.client.get("/v1/models")).json()
        assert models["object"] == "list"
        assert models["data"][0] == {
            "id": "org/model",
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "penstock",
            "max_model_len": CONTEXT,
            "reasoning_efforts": ["none"],
        }
        assert [model["id"] for model in models["data"]] == ["org/model", "alias"]
        for path in ("org/model", "org%2Fmodel"):
            assert (await server.client.get(f"/v1/models/{path}")).json() == models["data"][0]
        server.lifecycle.info = None
        assert (await server.client.get("/v1/models/alias")).json()["max_model_len"] is None
        response = await server.client.get("/v1/models/org/other")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/alias", "/docs", "/"]
)
async def test_head_works_where_get_does(path):
    async with serving() as server:
        get, head = await server.client.get(path), await server.client.head(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        varying = {"x-request-id", "openai-processing-ms"}
        assert {k: v for k, v in head.headers.items() if k not in varying} == {
            k: v for k, v in get.headers.items() if k not in varying
        }


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("POST", "/v1/nope", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("HEAD", "/v1/chat/completions", 405, None),
        ("HEAD", "/v1/streams/some", 405, None),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/docs/../etc/passwd", 404, "unknown_url"),
        ("GET", "/docs/passwd", 404, "not_found"),
    ],
)
async def test_what_is_not_there_answers_in_shape(method, path, status, code):
    async with serving() as server:
        response = await server.client.request(method, path)
        assert response.status_code == status
        if status == 405:
            assert response.headers["allow"]
        if method != "HEAD":
            error = response.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["type"], error["code"]) == ("invalid_request_error", code)


# --- the OpenAPI document -----------------------------------------------------------------------------------


async def document():
    async with serving() as server:
        return (await server.client.get("/openapi.json")).json()


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


async def test_every_reference_of_the_document_leads_somewhere():
    found = await document()
    schemas = found["components"]["schemas"]
    targets = set(references(found))
    assert targets
    for target in targets:
        assert target.removeprefix("#/components/schemas/") in schemas, target
    assert "$defs" not in str(found)


async def test_every_field_of_the_document_is_described():
    schemas = (await document())["components"]["schemas"]
    assert {"ChatCompletionRequest", "CompletionRequest", "ChatCompletion", "ErrorBody"} <= schemas.keys()
    assert "HTTPValidationError" not in schemas
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field}"


async def test_every_route_is_described_and_says_how_it_fails():
    paths = (await document())["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/health"} <= paths.keys()
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert "422" not in operation["responses"], path
    for path in ("/v1/chat/completions", "/v1/completions"):
        operation = paths[path]["post"]
        assert {"200", "400", "401", "404", "413", "429", "503"} <= operation["responses"].keys()
        assert operation["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
        assert operation["responses"]["400"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/ErrorBody"
        }
        assert operation["requestBody"]["required"]


async def test_unsupported_fields_are_documented_with_what_is_accepted():
    schemas = (await document())["components"]["schemas"]
    tier = schemas["ChatCompletionRequest"]["properties"]["service_tier"]
    assert tier["description"] == "Not supported: there is one tier."
    assert tier["enum"] == [None, "auto", "default"]


async def test_the_document_says_the_limits_of_this_server():
    async with serving(limits=Limits(max_n=5, max_stop_length=7, max_messages=9)) as server:
        found = (await server.client.get("/openapi.json")).json()
    assert "x-limit" not in str(found)
    schemas = found["components"]["schemas"]
    chat = schemas["ChatCompletionRequest"]["properties"]
    assert chat["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 5}
    assert chat["messages"]["maxItems"] == 9
    assert chat["stop"]["anyOf"][0]["oneOf"][0]["maxLength"] == 7
    assert chat["seed"]["anyOf"][0] == {"type": "integer", "exclusiveMaximum": 2**64, "minimum": -(2**63)}
    for operations in found["paths"].values():
        for operation in operations.values():
            error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorBody"}


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("GenerationRequest", {"prompt": "a", "max_tokens": 1}, {"prompt": "a"}),
        ("GenerationRequest", {"prompt": "a", "max_new_tokens": 1}, {"prompt": "a", "max_tokens": None}),
        ("AssistantMessage", {"role": "assistant", "content": None}, {"role": "assistant"}),
        ("CompletionRequest", {"prompt": ["a"]}, {"prompt": []}),
        ("CompletionRequest", {"prompt": "a", "logit_bias": {"5": 1}}, {"prompt": "a", "logit_bias": {"five": 1}}),
        ("CompletionRequest", {"prompt": "a", "store": False}, {"prompt": "a", "store": True}),
    ],
)
async def test_the_document_says_what_several_fields_have_to_be(name, taken, refused):
    found = await document()
    validator = jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": found["components"]}
    )
    assert validator.is_valid(taken) and not validator.is_valid(refused)


async def test_the_page_of_the_document_loads_nothing_from_elsewhere():
    async with serving() as server:
        page = (await server.client.get("/docs")).text
        assert "//" not in page.replace("<!--", "").replace("/*", "").split("<script>")[0].replace("</", "")
        for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            assert f"/docs/{file}" in page
            response = await server.client.get(f"/docs/{file}")
            assert response.status_code == 200
            assert len(response.content) > 1000


async def test_a_path_with_a_slash_too_many_is_not_redirected():
    async with serving() as server:
        response = await server.client.get("/v1/models/")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        response = await server.client.get("/health/")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
