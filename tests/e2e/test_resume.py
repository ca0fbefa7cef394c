"""Connections are really lost, and the gateway really killed: those who asked to resume join the same answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

PENSTOCK = str(Path(sys.executable).parent / "penstock")
STREAMS = 8
ROOT = Path(__file__).parents[2]
TOKENS = 500
CLIENT_ERRORS = (openai.APIError, httpx.TransportError)


def request(number: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Count from {number} to 90."}],
        "max_tokens": TOKENS,
        "temperature": 0.7,
        "seed": number,
        "n": 2 if number % 4 == 1 else 1,
        "logprobs": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "min_tokens": TOKENS,
        **more,
    }


@dataclass
class Answer:
    """What all connections' events of one stream come to."""

    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    finishes: dict[int, list[str]] = field(default_factory=dict)
    usages: list[int] = field(default_factory=list)

    def take(self, chunk: dict[str, Any]) -> None:
        if chunk.get("usage"):
            self.usages.append(chunk["usage"]["completion_tokens"])
        for choice in chunk["choices"]:
            index = choice["index"]
            self.texts[index] = self.texts.get(index, "") + (choice["delta"].get("content") or "")
            if choice["logprobs"]:
                pairs = [(entry["token"], entry["logprob"]) for entry in choice["logprobs"]["content"]]
                self.tokens.setdefault(index, []).extend(pairs)
            if choice["finish_reason"]:
                self.finishes.setdefault(index, []).append(choice["finish_reason"])

    @property
    def count(self) -> int:
        return min((len(tokens) for tokens in self.tokens.values()), default=0)

    @property
    def done(self) -> bool:
        """The usage chunk is the last before ``[DONE]``."""
        return bool(self.usages)


class Reader:
    """A client that comes back, with the id of the last event it saw, until it has all."""

    def __init__(self, url: str, number: int) -> None:
        self.url, self.number = url, number
        self.answer = Answer()
        self.stream_id: str | None = None
        self.last_id: str | None = None
        self.connections = 0

    async def run(self) -> Answer:
        while not self.answer.done:
            with contextlib.suppress(*CLIENT_ERRORS):
                await self.connect()
            if not self.answer.done:
                await asyncio.sleep(0.1)
        return self.answer

    async def connect(self) -> None:
        """Until the connection ends."""
        raise NotImplementedError


class OpenAIReader(Reader):
    """The openai client, with ids in the chunks."""

    async def connect(self) -> None:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            self.connections += 1
            if self.stream_id is None:
                fields = request(self.number)
                extra = {name: fields.pop(name) for name in ("ignore_eos", "min_tokens")}
                stream = await client.chat.completions.create(
                    **fields, extra_body=extra, extra_headers={"X-Penstock-Resume": "body"}
                )
            else:
                stream = await client.get(
                    f"/streams/{self.stream_id}",
                    options={"params": {"starting_after": self.last_id} if self.last_id else {}},
                    cast_to=ChatCompletionChunk,
                    stream=True,
                    stream_cls=openai.AsyncStream[ChatCompletionChunk],
                )
            async for chunk in stream:
                self.stream_id, self.last_id = chunk.id, chunk.event_id
                self.answer.take(chunk.model_dump())


class SSEReader(Reader):
    """A reader of event streams that keeps to the standard, with ids in lines of their own."""

    async def connect(self) -> None:
        self.connections += 1
        async with httpx.AsyncClient(timeout=60) as client:
            if self.stream_id is None:
                source = httpx_sse.aconnect_sse(
                    client,
                    "POST",
                    f"{self.url}/v1/chat/completions",
                    json=request(self.number),
                    headers={"X-Penstock-Resume": "sse"},
                )
            else:
                headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
                source = httpx_sse.aconnect_sse(
                    client, "GET", f"{self.url}/v1/streams/{self.stream_id}", headers=headers
                )
            async with source as events:
                if events.response.status_code != 200:
                    return
                self.stream_id = events.response.headers["x-penstock-stream"]
                async for event in events.aiter_sse():
                    if not event.data:  # what this reader makes of a keep-alive after an id
                        continue
                    if event.data == "[DONE]":
                        return
                    data = json.loads(event.data)
                    if "error" in data:
                        return
                    self.last_id = event.id
                    self.answer.take(data)


def get(server: Any, reader: Reader, key: str = "none") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{server.url}/v1/streams/{reader.stream_id}", headers=headers, timeout=60)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (the condition is another process's)
        await asyncio.sleep(0.005)


def readers(url: str) -> list[Reader]:
    return [(OpenAIReader, SSEReader)[number % 2](url, number) for number in range(STREAMS)]


async def undisturbed(url: str) -> list[Answer]:
    answers = await asyncio.gather(*(reader.run() for reader in readers(url)))
    for answer in answers:
        assert all(len(tokens) == TOKENS for tokens in answer.tokens.values())
        assert len(answer.usages) == 1
    return answers


@pytest.fixture(scope="module")
def expected(server: Any) -> list[Answer]:
    """Of a server that nothing happens to: every other one of the same dtype answers alike."""
    with ThreadPoolExecutor() as thread:
        return thread.submit(asyncio.run, undisturbed(server.url)).result()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Servers that are started now take a fifth of a second for a step while this file is there."""
    faults = ROOT / "tests" / "chaos" / "faults"
    monkeypatch.setenv("PYTHONPATH", f"{faults}:{ROOT}")
    monkeypatch.setenv("CHAOS_SLOW", str(tmp_path / "slow"))
    return tmp_path / "slow"


async def in_mid_output(following: list[Reader], tokens: int) -> None:
    """Until every reader has so many more, and none is done."""
    before = [reader.answer.count for reader in following]
    await until(
        lambda: all(reader.answer.count >= then + tokens for reader, then in zip(following, before, strict=True))
    )
    assert all(reader.answer.count < TOKENS for reader in following)


@pytest.mark.slow
async def test_lost_connections_join_to_the_same_answer(start_server: Any, slow: Path, expected: list[Answer]) -> None:
    with start_server("--dtype", "float32", "--max-num-seqs", "64") as server:
        await asyncio.to_thread(slow.touch)
        following = readers(server.url)
        for _ in range(3):
            connecting = [asyncio.ensure_future(reader.connect()) for reader in following]
            await in_mid_output(following, 10)
            for task in connecting:
                task.cancel()
            await asyncio.gather(*connecting, return_exceptions=True)
        await asyncio.to_thread(slow.unlink)
        assert await asyncio.gather(*(reader.run() for reader in following)) == expected
        assert server.counted("penstock_requests_total", finish_reason="abort") == 0
        assert server.counted("penstock_resumes_total", outcome="resumed") >= 3 * STREAMS
        await asyncio.to_thread(server.wait_idle)


async def test_a_stream_nobody_comes_back_to_ends(start_server: Any, long_answer: dict[str, Any]) -> None:
    with start_server("--resume-grace", "0.5", "--api-key", "mine", "--api-key", "yours") as server:
        mine = {"Authorization": "Bearer mine"}
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, **long_answer}
        headers = {**mine, "X-Penstock-Resume": "sse"}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers) as response:
            stream_id = response.headers["x-penstock-stream"]
            assert response.headers["x-penstock-durable"] == "false"
            next(response.iter_lines())
        await asyncio.to_thread(server.wait_idle)
        assert server.counted("penstock_requests_total", finish_reason="abort") == 1
        assert server.metric("penstock_streams_held") == 0
        lost = Reader(server.url, 0)
        lost.stream_id = stream_id
        assert get(server, lost, "mine").status_code == 410
        assert get(server, lost, "yours").status_code == 404


@pytest.mark.slow
async def test_a_killed_gateway_is_a_pause(
    start_server: Any, tmp_path: Path, slow: Path, expected: list[Answer]
) -> None:
    """Killed twice, told to stop once; then nothing is left in the journal."""
    settings = ["--dtype", "float32", "--journal", str(tmp_path / "journal"), "--drain-timeout", "0"]
    following: list[Reader] = []
    running: list[asyncio.Task[Answer]] = []
    port = None
    for number, end in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, None)):
        with start_server(*settings, port=port) as server:
            if not number:
                port = httpx.URL(server.url).port
                await asyncio.to_thread(slow.touch)
                following = readers(server.url)
                running = [asyncio.create_task(reader.run()) for reader in following]
            if end is not None:
                await in_mid_output(following, 5)
                assert not any(task.done() for task in running)
                server.process.send_signal(end)
                await asyncio.to_thread(server.process.wait, 30)
                continue
            await asyncio.to_thread(slow.unlink)
            assert await asyncio.gather(*running) == expected
            assert all(reader.connections >= 4 for reader in following)
            assert server.metric("penstock_journal_failed") == 0
            assert server.metric("penstock_journal_entries_total") > 0
            await asyncio.to_thread(server.wait_idle)


@pytest.mark.slow
async def test_streams_pass_to_the_server_that_takes_over(
    start_server: Any, tmp_path: Path, slow: Path, expected: list[Answer]
) -> None:
    """``penstock upgrade``: what the old server does not end in time goes on in the new one."""
    settings = ["--dtype", "float32", "--journal", str(tmp_path / "journal"), "--drain-timeout", "0"]
    with start_server(*settings) as server:
        await asyncio.to_thread(slow.touch)
        following = readers(server.url)
        running = [asyncio.create_task(reader.run()) for reader in following]
        await in_mid_output(following, 5)
        upgrade = await asyncio.create_subprocess_exec(
            PENSTOCK, "upgrade", "--port", str(httpx.URL(server.url).port), stderr=asyncio.subprocess.DEVNULL
        )
        assert await upgrade.wait() == 0
        assert not any(task.done() for task in running), "all are in mid-output when the new server takes over"
        await asyncio.to_thread(slow.unlink)
        assert await asyncio.gather(*running) == expected
        assert all(reader.connections >= 2 for reader in following)
        assert server.metric("penstock_journal_failed") == 0
        assert server.counted("penstock_resumes_total", outcome="resumed") >= STREAMS


@pytest.mark.slow
async def test_answers_that_were_complete_are_there_after_a_kill(start_server: Any, tmp_path: Path) -> None:
    settings = ["--journal", str(tmp_path / "journal"), "--resume-grace", "2"]
    with start_server(*settings) as server:
        port = httpx.URL(server.url).port
        expected = await OpenAIReader(server.url, 1).run()
        reader = SSEReader(server.url, 1)
        await reader.run()
        assert get(server, reader).headers["x-penstock-durable"] == "true"
        server.process.kill()
        server.process.wait()
    with start_server(*settings, port=port) as server:
        again = SSEReader(server.url, 1)
        again.stream_id = reader.stream_id
        answer = await again.run()
        assert answer == expected
        assert server.counted("penstock_generated_tokens_total") == 0, "nothing was generated again"
        await until(lambda: server.metric("penstock_streams_held") == 0)
        assert get(server, reader).status_code == 410
    with start_server(*settings, port=port) as server:
        assert get(server, reader).status_code == 404


@pytest.mark.slow
async def test_a_disk_that_is_full_kills_no_stream(
    start_server: Any, tmp_path: Path, slow: Path, expected: list[Answer]
) -> None:
    with start_server("--dtype", "float32", "--journal", str(tmp_path / "journal")) as server:
        await asyncio.to_thread(slow.touch)
        following = readers(server.url)
        running = [asyncio.create_task(reader.run()) for reader in following]
        await in_mid_output(following, 10)
        size = server.log.stat().st_size + 1000
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        await asyncio.to_thread(slow.unlink)
        assert await asyncio.gather(*running) == expected
        assert server.metric("penstock_journal_failed") == 1
        assert "would not outlive this server" in server.log.read_text()
        last = await SSEReader(server.url, 3).run()
        assert last == expected[3]
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        await until(lambda: server.metric("penstock_journal_failed") == 0)


def test_a_journal_that_is_in_use_ends_the_start_with_one_line(start_server: Any, tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    with start_server("--journal", journal):
        second = subprocess.run(
            [PENSTOCK, "serve", "--journal", journal, "--port", "0"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode == 1
    assert second.stderr.strip() == f"penstock: error: the journal {journal} is in use by another server"
