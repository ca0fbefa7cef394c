"""A real server is told to stop under real requests: who is served to the end, who is told what, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

pytestmark = pytest.mark.slow

STREAMS = 3
ASK: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Tell me a long story."}]}
FOR_SECONDS: dict[str, Any] = ASK | {"n": 4, "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
LONGER_THAN_ANY_TEST = "300"


async def texts_of(client: openai.AsyncOpenAI, seed: int, begun: asyncio.Event) -> list[tuple[str, str | None]]:
    """(text, finish reason) of each choice of a streamed answer; ``begun`` is set at its first text."""
    texts: list[list[Any]] = [["", None] for _ in range(FOR_SECONDS["n"])]
    stream = await client.chat.completions.create(**FOR_SECONDS, seed=seed, temperature=1.0, stream=True)
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index][0] += choice.delta.content or ""
            texts[choice.index][1] = choice.finish_reason or texts[choice.index][1]
            if choice.delta.content:
                begun.set()
    return [(text, finish) for text, finish in texts]


async def begin_streams(client: openai.AsyncOpenAI) -> list[asyncio.Task[list[tuple[str, str | None]]]]:
    """In mid-output, each of them."""
    begun = [asyncio.Event() for _ in range(STREAMS)]
    streams = [asyncio.create_task(texts_of(client, seed, event)) for seed, event in enumerate(begun)]
    await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), 60)
    return streams


async def begin_whole(server: Any, client: openai.AsyncOpenAI) -> asyncio.Task[openai.types.chat.ChatCompletion]:
    """A request without a stream, once the engine has begun it."""
    running = server.metric("penstock_requests_running")
    whole = asyncio.create_task(client.chat.completions.create(**FOR_SECONDS, seed=99, temperature=1.0))
    while True:
        if await asyncio.to_thread(server.metric, "penstock_requests_running") > running:
            return whole
        await asyncio.sleep(0.01)


async def draining(server: Any) -> httpx.Response:
    """What a new request is told, as soon as it is refused."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        while True:
            ready = await client.get("/ready")
            if ready.status_code == 503:
                assert ready.json()["reason"] == "the server is shutting down"
                assert (await client.get("/health")).status_code == 200
                return await client.post("/v1/chat/completions", json=ASK | {"max_tokens": 1})
            await asyncio.sleep(0.01)


async def test_a_drain_ends_what_has_begun_and_refuses_what_is_new(start_server: Any) -> None:
    with start_server("--drain-timeout", LONGER_THAN_ANY_TEST) as server:
        async with server.async_client() as client:
            undisturbed = await asyncio.gather(*(texts_of(client, seed, asyncio.Event()) for seed in range(STREAMS)))
            streams = await begin_streams(client)
            whole = await begin_whole(server, client)
            server.process.send_signal(signal.SIGTERM)
            refused = await draining(server)
            with pytest.raises(openai.InternalServerError, match="shutting down") as seen:
                await client.chat.completions.create(**ASK)
            assert not whole.done() and not any(stream.done() for stream in streams), "they outlast all of this"
            assert refused.status_code == seen.value.status_code == 503
            assert refused.json()["error"] == {
                "message": "The server is shutting down and takes no new requests.",
                "type": "server_error",
                "param": None,
                "code": "server_is_overloaded",
            }
            assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("10", "10000")
            assert refused.headers["connection"] == "close"
            assert await asyncio.gather(*streams) == undisturbed
            assert [choice.finish_reason for choice in (await whole).choices] == ["length"] * FOR_SECONDS["n"]
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("how", ["the drain's end", "a second signal"])
async def test_what_a_drain_does_not_wait_for_is_told_so(
    start_server: Any, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'tests' / 'chaos' / 'faults'}:{root}")
    (tmp_path / "slow").touch()  # Streams last, however fast the machine is.
    monkeypatch.setenv("CHAOS_SLOW", str(tmp_path / "slow"))
    patience = "0.3" if how == "the drain's end" else LONGER_THAN_ANY_TEST
    with start_server("--drain-timeout", patience) as server:
        async with server.async_client() as client:
            streams = await begin_streams(client)
            whole = await begin_whole(server, client)
            server.process.send_signal(signal.SIGINT)
            if how == "a second signal":
                await draining(server)
                server.process.send_signal(signal.SIGTERM)
            for stream in streams:
                with pytest.raises(openai.APIError, match="The server was shut down"):
                    await asyncio.wait_for(stream, 60)
            with pytest.raises(openai.InternalServerError, match="The server was shut down") as unanswered:
                await asyncio.wait_for(whole, 60)
            assert unanswered.value.response.headers["retry-after-ms"] == "10000"
        assert server.process.wait(120) == 0
        assert "Traceback" not in server.log.read_text()
