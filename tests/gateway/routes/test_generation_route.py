"""``POST /generation``."""

from __future__ import annotations

import pytest
from http_for_tests import serving

from gateway.errors import RateLimited

PATH = "/generation"


async def test_the_text_comes_back_with_its_beginning():
    async with serving() as server:
        body = {"prompt": "Well: ", "max_tokens": 20, "top_k": 5, "top_p": 0.5, "temperature": 0.7}
        response = await server.client.post(PATH, json=body)
        assert response.json() == {"text": "Well: Hello there"}
        (params,) = server.lifecycle.last.params
        assert (params.max_tokens, params.top_k, params.top_p, params.temperature) == (20, 5, 0.5, 0.7)


async def test_the_newer_name_of_max_tokens():
    async with serving() as server:
        for body in ({"max_new_tokens": 7}, {"max_new_tokens": 7, "max_tokens": 7}):
            assert (await server.client.post(PATH, json={"prompt": "a"} | body)).status_code == 200
            (params,) = server.lifecycle.last.params
            assert (params.max_tokens, params.top_k, params.top_p, params.temperature) == (7, 0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 257}, "max_tokens"),
        ({"max_new_tokens": 257}, "max_new_tokens"),
        ({"max_tokens": 5, "max_new_tokens": 6}, "max_tokens"),
        ({"max_tokens": 5, "top_k": 0}, "top_k"),
        ({"max_tokens": 5, "top_p": 0}, "top_p"),
        ({"max_tokens": 5, "temperature": -1}, "temperature"),
        ({"max_tokens": 5, "prompt": ""}, "prompt"),
        ({"max_tokens": 5, "prompt": ["a"]}, "prompt"),
        ({"max_tokens": 5, "prompt": "a" * 300}, "prompt"),
        ({"max_tokens": 5, "stream": True}, "stream"),
    ],
)
async def test_bad_requests_are_refused_by_name(fields, param):
    async with serving() as server:
        response = await server.client.post(PATH, json={"prompt": "a"} | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert not server.lifecycle.requests


async def test_a_full_queue_is_a_429():
    async with serving() as server:
        server.lifecycle.refuse = RateLimited("full", retry_after=2)
        response = await server.client.post(PATH, json={"prompt": "a", "max_tokens": 5})
        assert (response.status_code, response.headers["retry-after"]) == (429, "2")
