"""Request ids, the access log, bodies that are too large or too slow, and errors of our own."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from http_for_tests import answer_hello, serving

from gateway.app import create_app
from gateway.errors import APIError
from gateway.middleware import BodyMiddleware
from gateway.protocol.limits import Limits
from gateway.state import RequestContext
from observability.logging import current_context
from observability.records import Rejection

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("given", ["abc", "a" * 128, "trace/1:2"])
async def test_a_clients_request_id_is_kept(given):
    async with serving() as server:
        response = await server.client.get("/health", headers={"x-request-id": given})
        assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "ü"])
async def test_another_one_is_made_where_it_is_none(given):
    async with serving() as server:
        response = await server.client.get("/health", headers={"x-request-id": given.encode()})
        made = response.headers["x-request-id"]
        assert made.startswith("req-")
        assert len(made) == 36


async def test_every_answer_has_openais_headers():
    async with serving() as server:
        for path in ("/health", "/nope", "/v1/models"):
            headers = (await server.client.get(path)).headers
            assert headers["openai-version"] == "2020-10-01"
            assert int(headers["openai-processing-ms"]) >= 0


async def test_an_unexpected_failure_is_a_500_in_shape(caplog):
    def broken(accept: str) -> tuple[bytes, str]:
        assert current_context()["request_id"] == "abc"
        raise ZeroDivisionError("secret detail")

    async with serving(render_metrics=broken) as server:
        response = await server.client.get("/metrics", headers={"x-request-id": "abc"})
        assert response.status_code == 500
        assert response.headers["x-request-id"] == "abc"
        error = response.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("server_error", None, "internal_error")
        assert "abc" in error["message"]
        assert "secret" not in error["message"]
    assert "ZeroDivisionError" in caplog.text


async def test_the_access_log_has_a_line_for_each_request(caplog):
    caplog.set_level(logging.DEBUG, "gateway.access")
    async with serving() as server:
        await server.chat("a secret prompt")
        await server.client.get("/health")
        await server.client.get("/nope")
    lines = [record for record in caplog.records if record.name == "gateway.access"]
    assert [(line.levelname, line.getMessage(), line.status) for line in lines] == [
        ("INFO", "POST /v1/chat/completions 200", 200),
        ("DEBUG", "GET /health 200", 200),
        ("INFO", "GET /nope 404", 404),
    ]
    assert all(line.duration >= 0 and line.tenant == "default" for line in lines)
    assert "secret" not in str([line.__dict__ for line in lines])


async def test_a_stream_is_logged_when_it_has_ended(caplog):
    caplog.set_level(logging.INFO, "gateway.access")

    def script(request):
        yield from answer_hello(request)
        yield 0.1

    async with serving(script=script) as server:
        await server.chat(stream=True)
    (line,) = [record for record in caplog.records if record.name == "gateway.access"]
    assert (line.status, line.stream) == (200, True)
    assert line.duration >= 0.1


async def test_a_body_may_have_so_many_bytes():
    async with serving(limits=Limits(max_body_size=100)) as server:
        post = server.client.post
        body = json.dumps({"prompt": "Hi"}).encode()
        exact = body + b" " * (100 - len(body))
        assert (await post("/v1/completions", content=exact, headers=JSON)).status_code == 200
        response = await post("/v1/completions", content=exact + b" ", headers=JSON)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "payload_too_large"
        assert response.headers["connection"] == "close"

        async def pieces():
            for _ in range(1000):
                yield b" " * 50

        response = await post("/v1/completions", content=pieces(), headers=JSON)
        assert response.status_code == 413
        assert (
            response.json()["error"]["message"]
            == "The request body may have at most 100 bytes (--max-body-size), but has more."
        )
        assert server.records == [Rejection(tenant="default", error_type="validation", reason="body_size")] * 2


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "Zstd"])
async def test_a_compressed_body_is_refused(encoding):
    async with serving() as server:
        response = await server.client.post(
            "/v1/completions", content=b"\x1f\x8b", headers=JSON | {"content-encoding": encoding}
        )
        assert response.status_code == 415
        assert response.json()["error"]["code"] == "unsupported_media_type"
        response = await server.client.post(
            "/v1/completions", json={"prompt": "Hi"}, headers={"content-encoding": "identity"}
        )
        assert response.status_code == 200


async def test_a_body_that_stops_coming_is_not_waited_for():
    raised: list[APIError] = []

    async def app(scope, receive, send):
        try:
            await receive()
            await receive()
        except APIError as error:
            raised.append(error)

    first = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if first:
            return first.pop()
        await asyncio.sleep(60)
        raise AssertionError

    middleware = BodyMiddleware(app, 100, lambda context, error: None, patience=0.05)
    scope = {"type": "http", "headers": [], "penstock.context": RequestContext("id", 0.0)}
    await middleware(scope, receive, receive)
    assert [error.status for error in raised] == [408]


async def test_the_clients_leaving_is_waited_for_as_long_as_it_takes():
    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]

    async def receive():
        await asyncio.sleep(0.03 if len(messages) == 2 else 0.2)
        return messages.pop(0)

    middleware = BodyMiddleware(app, 100, lambda context, error: None, patience=0.1)
    await middleware({"type": "http", "headers": []}, receive, receive)
    assert messages == []


async def test_pages_of_other_origins_are_let_in_only_where_they_are_named():
    origin = {"origin": "https://chat.example"}
    preflight = origin | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with serving() as server:
        assert "access-control-allow-origin" not in (await server.client.get("/v1/models", headers=origin)).headers
        assert (await server.client.options("/v1/models", headers=preflight)).status_code == 405
    async with serving(cors_origins=("https://chat.example",)) as server:
        for path in ("/v1/models", "/nope"):  # an error too must be readable
            headers = (await server.client.get(path, headers=origin)).headers
            assert headers["access-control-allow-origin"] == "https://chat.example"
        assert (await server.client.options("/v1/completions", headers=preflight)).status_code == 200
        other = await server.client.get("/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_a_client_that_goes_away_while_it_sends_is_logged_as_such(caplog):
    caplog.set_level(logging.INFO, "gateway.access")

    async with serving() as server:
        app = create_app(server.state)
        sent: list[object] = []

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "raw_path": b"/v1/completions",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
        }
        await app(scope, receive, send)
        assert sent == []
    assert [record.status for record in caplog.records if record.name == "gateway.access"] == [499]


async def test_the_last_response_on_a_connection_says_so():
    leaving = False
    async with serving(leaving=lambda: leaving) as server:
        assert "connection" not in (await server.chat()).headers
        leaving = True
        for response in (await server.chat(), await server.chat(stream=True), await server.client.get("/nope")):
            assert response.headers["connection"] == "close"
