"""Keys, limits and overload, as clients see them."""

from __future__ import annotations

import asyncio
import hashlib
import logging

import pytest
from http_for_tests import answer_hello, serving
from tokenizers_for_tests import byte_level

from gateway.admission import Admission, Key, Keys, Tenant
from gateway.chat_template import ChatTemplate
from gateway.errors import Unavailable
from gateway.prompt import Prompts
from observability.records import IgnoredFields, Rejection

KEYS = Keys(
    [
        Key(hashlib.sha256(b"key-a").digest(), Tenant("alice", 1)),
        Key(hashlib.sha256(b"key-b").digest(), Tenant("bob")),
    ]
)
ALICE, BOB = {"authorization": "Bearer key-a"}, {"authorization": "Bearer key-b"}
BODY = {"prompt": "Hi"}


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nope"}, {"authorization": "Basic key-a"}])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/anything", "/v1"])
async def test_v1_needs_a_key(path, headers):
    async with serving(keys=KEYS) as server:
        for response in (
            await server.client.get(path, headers=headers),
            await server.client.post(path, headers=headers, json=BODY),
        ):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            error = response.json()["error"]
            assert (error["type"], error["param"], error["code"]) == ("authentication_error", None, "invalid_api_key")
        assert server.records == [Rejection(tenant="unknown", error_type="validation", reason="auth")] * 2


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/version", "/openapi.json", "/docs", "/"])
async def test_the_rest_is_open(path):
    async with serving(keys=KEYS) as server:
        assert (await server.client.get(path)).status_code == 200


async def test_a_key_names_the_tenant(caplog):
    caplog.set_level(logging.INFO, "gateway.access")
    async with serving(keys=KEYS) as server:
        response = await server.client.post("/v1/completions", json=BODY | {"user": "u-1"}, headers=BOB)
        assert response.status_code == 200
        assert server.lifecycle.last.tenant == "bob"
        (line,) = [record for record in caplog.records if record.name == "gateway.access"]
        assert line.getMessage() == "POST /v1/completions 200"
        assert (line.tenant, line.status, line.user, line.prompt_tokens) == ("bob", 200, "u-1", 2)
        assert "key-b" not in str(line.__dict__)


async def test_the_newer_name_of_the_end_user_and_names_of_the_request(caplog):
    caplog.set_level(logging.INFO, "gateway.access")
    async with serving() as server:
        body = BODY | {"user": "u-1", "safety_identifier": "s-1", "metadata": {"job": "nightly"}}
        assert (await server.client.post("/v1/completions", json=body)).status_code == 200
        (line,) = [record for record in caplog.records if record.name == "gateway.access"]
        assert (line.user, line.metadata) == ("s-1", {"job": "nightly"})


async def test_a_session_has_three_names_and_belongs_to_its_key():
    async with serving(keys=KEYS) as server:

        async def session(headers, **fields):
            response = await server.client.post("/v1/completions", json=BODY | fields, headers=headers)
            assert response.status_code == 200, response.text
            return server.lifecycle.last.session

        assert await session(BOB) is None
        assert await session(BOB, user="", session_id=None) is None
        names = ("session_id", "prompt_cache_key", "user")
        sessions = [await session(headers, **{name: "s"}) for headers in (ALICE, BOB) for name in names]
        sessions.append(await session(BOB, session_id="t"))
        assert len(set(sessions)) == 7 and all(len(each) == 16 for each in sessions)
        everything = {"session_id": "s", "prompt_cache_key": "k", "user": "u"}
        assert await session(BOB, **everything) == await session(BOB, session_id="s")
        del everything["session_id"]
        assert await session(BOB, **everything) == await session(BOB, prompt_cache_key="k")
        long = await session(BOB, prompt_cache_key="x" * 100_000)
        assert len(long) == 16


async def test_tenants_do_not_share_cached_prefixes():
    async with serving(keys=KEYS) as server:
        salts = []
        for headers, own in ((ALICE, None), (BOB, None), (ALICE, None), (ALICE, "x"), (BOB, "x")):
            await server.client.post("/v1/completions", json=BODY | {"cache_salt": own}, headers=headers)
            salts.append(server.lifecycle.last.cache_salt)
        assert salts[0] == salts[2]
        assert len(set(salts)) == 4


async def test_a_key_has_its_share_of_places():
    submitted = asyncio.Event()

    def script(request):
        if not submitted.is_set():
            submitted.set()
            yield 2.0
        yield from answer_hello(request)

    async with serving(keys=KEYS, script=script) as server:
        post = server.client.post
        first = asyncio.create_task(post("/v1/completions", json=BODY, headers=ALICE))
        await submitted.wait()
        second = await post("/v1/completions", json=BODY, headers=ALICE)
        assert second.status_code == 429
        assert 1 <= int(second.headers["retry-after"]) <= 120
        assert int(second.headers["retry-after-ms"]) >= 1000
        assert second.json()["error"]["code"] == "rate_limit_exceeded"
        assert second.headers["x-ratelimit-limit-requests"] == "1"
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await post("/v1/completions", json=BODY, headers=BOB)).status_code == 200
        done = await first
        assert done.status_code == 200
        assert done.headers["x-ratelimit-limit-requests"] == "1"
        assert done.headers["x-ratelimit-remaining-requests"] == "0"
        for stream in (True, False, True):  # its place is free again, also after a stream
            again = await post("/v1/completions", json=BODY | {"stream": stream}, headers=ALICE)
            assert again.status_code == 200
        assert server.records == [Rejection(tenant="alice", error_type="overload", reason="concurrency")]


async def test_a_full_queue_answers_429():
    async with serving(admission=lambda lifecycle: Admission(lifecycle, max_queue_requests=2)) as server:
        server.lifecycle.queued_requests = 2
        response = await server.chat()
        assert response.status_code == 429
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert 5 <= int(response.headers["retry-after"]) <= 7
        assert server.records == [Rejection(tenant="default", error_type="overload", reason="queue_full")]
        server.lifecycle.queued_requests = 1
        assert (await server.chat()).status_code == 200


async def test_a_server_that_shuts_down_says_so_whatever_its_queue():
    async with serving(admission=lambda lifecycle: Admission(lifecycle, max_queue_requests=2)) as server:
        server.lifecycle.queued_requests, server.lifecycle.draining = 2, True
        response = await server.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("10", "10000")


async def test_a_queue_full_of_tokens_answers_429():
    async with serving(admission=lambda lifecycle: Admission(lifecycle, max_queue_tokens=100)) as server:
        server.lifecycle.queued_tokens = 90
        assert (await server.complete([5] * 11)).status_code == 429
        assert (await server.complete([5] * 10)).status_code == 200


async def test_no_engine_no_service():
    async with serving() as server:
        server.lifecycle.refuse = Unavailable("The server is shutting down.", retry_after=10)
        response = await server.chat()
        assert response.status_code == 503
        assert response.headers["retry-after"] == "10"
        server.lifecycle.info = None
        assert (await server.chat()).status_code == 503
        assert [record.reason for record in server.records] == ["unavailable"] * 2


@pytest.mark.parametrize("policy", ["warn", "ignore"])
async def test_unknown_fields_that_are_passed_over_are_counted_and_named(policy):
    from gateway.protocol.limits import Limits

    async with serving(limits=Limits(unknown_fields=policy)) as server:
        response = await server.chat(foo=1, **{"bär ,\r\nx": 2})
        assert response.status_code == 200
        assert response.headers.get("x-penstock-ignored-fields") == (
            "foo, b%C3%A4r%20%2C%0D%0Ax" if policy == "warn" else None
        )
        assert server.records == [IgnoredFields(tenant="default", count=2)]
        await server.chat()
        assert len(server.records) == 1
        response = await server.chat(**{f"field-{n}": 1 for n in range(20)})
        if policy == "warn":
            named = response.headers["x-penstock-ignored-fields"].split(", ")
            assert named == [*(f"field-{n}" for n in range(16)), "and 4 more"]
        assert server.records[1].count == 20
        response = await server.chat(
            **{str(n) + "x" * 63: 1 for n in range(3)}, **{str(n) + "é" * 63: 1 for n in range(9)}
        )
        if policy == "warn":
            assert response.headers["x-penstock-ignored-fields"].endswith(", and 7 more")


async def test_what_the_template_does_not_show_of_messages_is_named():
    async with serving() as server:
        said = [{"role": "user", "content": "Hi", "name": "Ann"}]
        assert "x-penstock-ignored-fields" not in (await server.chat()).headers
        for path in ("/v1/chat/completions", "/v1/chat/completions/render", "/tokenize"):
            response = await server.client.post(path, json={"messages": said})
            assert response.headers["x-penstock-ignored-fields"] == "messages[].name"
        thought = {"role": "assistant", "content": "Yes", "reasoning": "Hm", "name": "Bot"}
        response = await server.client.post("/v1/chat/completions", json={"messages": [*said, thought]})
        assert response.headers["x-penstock-ignored-fields"] == "messages[].name, messages[].reasoning_content"
        assert [record.count for record in server.records] == [1, 1, 1, 2]
    named = ChatTemplate("{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}")
    async with serving(prompts=Prompts(byte_level(), named)) as server:
        response = await server.client.post("/v1/chat/completions", json={"messages": said})
        assert response.status_code == 200 and "x-penstock-ignored-fields" not in response.headers
