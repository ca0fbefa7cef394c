"""``GET /v1/streams/{id}``, and the header that asks for streams that may be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine_for_tests import EOS, FakeEngine, Records, ids_of
from http_for_tests import Server, engine_info, serving
from resume_for_tests import Joined, events_of
from tokenizers_for_tests import byte_level

from engine.messages import Start
from gateway.admission import Keys
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.streams import Streams
from observability.records import Resume

HI = [{"role": "user", "content": "Hi"}]


class AnsweringEngine(FakeEngine):
    """Says ``abcd``, a token a turn, to everybody."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        super().__init__(lifecycle, info=engine_info(byte_level()))
        self.sent = _Sent(self)  # type: ignore[assignment]
        lifecycle._placement._incarnations[0].send = self.sent.append
        self.tasks: list[asyncio.Task[None]] = []

    async def answer(self, start: Start) -> None:
        for at, token in enumerate(ids_of("abcd")):
            await asyncio.sleep(0)
            self.say(start.id, at, token)
        self.say(start.id, 4, EOS, finish="stop")


class _Sent(list[Any]):
    def __init__(self, engine: AnsweringEngine) -> None:
        super().__init__()
        self._engine = engine

    def append(self, message: Any) -> None:
        super().append(message)
        if isinstance(message, Start):
            self._engine.tasks.append(asyncio.ensure_future(self._engine.answer(message)))


@asynccontextmanager
async def resumable(**changes: Any) -> AsyncIterator[Server]:
    lifecycle = Lifecycle(byte_level(), record=Records())
    AnsweringEngine(lifecycle)
    streams = Streams(lifecycle, byte_level())
    async with serving(lifecycle=lifecycle, streams=streams, **changes) as server:
        yield server
    await streams.close()


async def start(server: Server, mode: str = "body", **fields: Any) -> tuple[str, list[tuple[str | None, str]]]:
    """(stream id, its events)."""
    response = await server.client.post(
        "/v1/chat/completions",
        json={"messages": HI, "stream": True, "stream_options": {"include_usage": True}, **fields},
        headers={"X-Penstock-Resume": mode},
    )
    assert response.status_code == 200
    assert response.headers["x-penstock-resume"] == mode
    return response.headers["x-penstock-stream"], events_of(response.content)


def joined(events: list[tuple[str | None, str]]) -> Joined:
    result = Joined()
    for _, data in events:
        result.feed(data)
    return result


@pytest.mark.parametrize("mode", ["body", "sse"])
async def test_a_stream_goes_on_after_any_event(mode: str) -> None:
    async with resumable() as server:
        stream_id, events = await start(server, mode, n=2)
        whole = joined(events)
        assert whole.texts == {0: "abcd", 1: "abcd"}
        assert all(event_id for event_id, data in events if data != "[DONE]")
        for seen in range(1, len(events)):
            response = await server.client.get(f"/v1/streams/{stream_id}?starting_after={events[seen - 1][0]}")
            assert response.headers["content-type"].startswith("text/event-stream")
            assert joined([*events[:seen], *events_of(response.content)]) == whole
        again = await server.client.get(f"/v1/streams/{stream_id}")
        assert joined(events_of(again.content)) == whole, "without an id it is all of it"
        outcomes = [record.outcome for record in server.records if isinstance(record, Resume)]
        assert outcomes == ["resumed"] * len(events)


async def test_chunks_carry_ids_in_one_place_only() -> None:
    async with resumable() as server:
        stream_id, events = await start(server, "body")
        assert all('"event_id":"' in data for _, data in events if data != "[DONE]")
        sse = (await server.client.get(f"/v1/streams/{stream_id}", headers={"X-Penstock-Resume": "sse"})).text
        assert "event_id" not in sse
        assert sse.count("\nid: ") + sse.startswith("id: ") == len(events_of(sse.encode())) - 1


async def test_plain_streams_have_no_ids() -> None:
    async with resumable() as server:
        response = await server.client.post("/v1/chat/completions", json={"messages": HI, "stream": True})
        assert "event_id" not in response.text
        assert "id: " not in response.text.replace('"id"', "")
        assert "x-penstock-stream" not in response.headers
        assert (await server.client.get(f"/v1/streams/{events_id(response.text)}")).status_code == 404


def events_id(text: str) -> str:
    return text.split('"id":"')[1].split('"')[0]


async def test_the_header_wins_over_the_query_since_browsers_repeat_the_url() -> None:
    async with resumable() as server:
        stream_id, events = await start(server)
        response = await server.client.get(
            f"/v1/streams/{stream_id}?starting_after={events[0][0]}", headers={"Last-Event-ID": str(events[3][0])}
        )
        assert joined([*events[:4], *events_of(response.content)]) == joined(events)


async def test_a_stream_belongs_to_its_key_also_within_one_tenant() -> None:
    async with resumable(keys=Keys.load(["mine", "yours"])) as server:
        server.client.headers["authorization"] = "Bearer mine"
        stream_id, events = await start(server)
        mine = await server.client.get(f"/v1/streams/{stream_id}")
        assert joined(events_of(mine.content)) == joined(events)
        yours = await server.client.get(f"/v1/streams/{stream_id}", headers={"authorization": "Bearer yours"})
        assert (yours.status_code, yours.json()["error"]["code"]) == (404, "stream_not_found")
        nobodys = await server.client.get(f"/v1/streams/{stream_id}", headers={"authorization": ""})
        assert nobodys.status_code == 401
        outcomes = [record.outcome for record in server.records if isinstance(record, Resume)]
        assert outcomes == ["resumed", "not_found"]


async def test_a_stream_that_is_gone_is_410_for_its_own_key_alone() -> None:
    async with resumable(keys=Keys.load(["mine", "yours"])) as server:
        server.client.headers["authorization"] = "Bearer mine"
        stream_id, _ = await start(server)
        (recording,) = server.state.streams._recordings.values()
        server.state.streams._drop(recording)
        response = await server.client.get(f"/v1/streams/{stream_id}")
        assert (response.status_code, response.json()["error"]["code"]) == (410, "stream_gone")
        yours = await server.client.get(f"/v1/streams/{stream_id}", headers={"authorization": "Bearer yours"})
        assert yours.status_code == 404


@pytest.mark.parametrize("event_id", ["x", "1.2", "99", "6f"])
async def test_an_id_that_this_stream_never_sent_is_refused(event_id: str) -> None:
    async with resumable() as server:
        stream_id, _ = await start(server)
        for param, response in (
            ("starting_after", await server.client.get(f"/v1/streams/{stream_id}?starting_after={event_id}")),
            (
                "Last-Event-ID",
                await server.client.get(f"/v1/streams/{stream_id}", headers={"Last-Event-ID": event_id}),
            ),
        ):
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param
            assert response.json()["error"]["code"] == "invalid_event_id"


async def test_the_header_is_honoured_or_refused_by_name() -> None:
    async with resumable() as server:
        post = server.client.post
        for header, body, code in (
            ("body", {"messages": HI}, "unsupported_parameter"),
            ("yes", {"messages": HI, "stream": True}, "invalid_value"),
        ):
            response = await post("/v1/chat/completions", json=body, headers={"X-Penstock-Resume": header})
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "X-Penstock-Resume"
            assert response.json()["error"]["code"] == code
        many = {"prompt": ["a"] * 5, "n": 13, "stream": True, "max_tokens": 5}
        response = await post("/v1/completions", json=many, headers={"X-Penstock-Resume": "sse"})
        assert response.status_code == 400
        assert "64 choices cannot be resumed here (--max-resume-choices)" in response.json()["error"]["message"]
        stream_id, _ = await start(server)
        response = await server.client.get(f"/v1/streams/{stream_id}", headers={"X-Penstock-Resume": "yes"})
        assert response.json()["error"]["param"] == "X-Penstock-Resume"
        assert not server.state.admission._inside, "nobody is left inside"


async def test_a_page_of_another_origin_may_ask_and_see_the_id() -> None:
    async with resumable(cors_origins=("https://page.example",)) as server:
        asked = await server.client.options(
            "/v1/chat/completions",
            headers={
                "origin": "https://page.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,last-event-id,x-penstock-resume",
            },
        )
        assert asked.status_code == 200
        assert "x-penstock-resume" in asked.headers["access-control-allow-headers"].lower()
        assert "last-event-id" in asked.headers["access-control-allow-headers"].lower()
        server.client.headers["origin"] = "https://page.example"
        response = await server.client.post(
            "/v1/chat/completions",
            json={"messages": HI, "stream": True},
            headers={"X-Penstock-Resume": "sse"},
        )
        assert response.headers["access-control-expose-headers"] == "*"
        assert response.headers["x-penstock-stream"]


async def test_a_stream_can_be_ended_by_its_holder_alone() -> None:
    async with resumable(keys=Keys.load(["key-a", "key-b"])) as server:
        server.client.headers["authorization"] = "Bearer key-a"
        stream_id, _ = await start(server)
        where = f"/v1/streams/{stream_id}"
        other = await server.client.delete(where, headers={"authorization": "Bearer key-b"})
        assert (other.status_code, other.json()["error"]["code"]) == (404, "stream_not_found")
        assert (await server.client.get(where)).status_code == 200
        assert (await server.client.delete(where)).status_code == 204
        gone = await server.client.get(where)
        assert gone.status_code == 410 and "its client has ended it" in gone.json()["error"]["message"]
        assert (await server.client.delete(where)).status_code == 410
