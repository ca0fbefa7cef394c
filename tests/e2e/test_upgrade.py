"""``penstock upgrade`` on a real server: what it says, what it leaves as it was, and what it does to connections."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.handover.control import candidates

pytestmark = pytest.mark.slow

PENSTOCK = str(Path(sys.executable).parent / "penstock")
ASK: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "temperature": 1.0,
    "extra_body": {"ignore_eos": True},
}


def upgrade(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PENSTOCK, "upgrade", "--port", str(urlsplit(url).port), *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=240)


def starting_process(server: Any, before: set[int]) -> int:
    """The new server process, which is a child of the running one in its own session."""
    end = time.monotonic() + 60
    while True:
        new = {pid for pid in server.engine_pids() if os.getsid(pid) == os.getsid(server.process.pid)} - before
        if new:
            return new.pop()
        assert time.monotonic() < end
        time.sleep(0.01)


async def text_of(client: Any, seed: int, tokens: int, begun: asyncio.Event) -> str:
    text = ""
    stream = await client.chat.completions.create(**ASK, seed=seed, max_tokens=tokens, stream=True)
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if text:
                begun.set()
    return text


def test_an_upgrade_that_fails_is_one_line_and_changes_nothing(start_server: Any) -> None:
    with start_server("--max-num-seqs", "8") as server:
        engines = server.engine_pids()
        for arguments, status, said in (
            (["--max-model-len", "1000000"], 1, "exceeds what the model was made for"),
            (["--max-num-seqs", "0"], 1, "--max-num-seqs must be at least 1"),
            (["--port", "1"], 1, "an upgrade keeps the port"),
            (["--max-length", "1"], 2, "--max-length"),
        ):
            result = upgrade(server.url, "--", *arguments)
            assert (result.returncode, result.stdout) == (status, ""), result.stderr
            *_, last = result.stderr.splitlines()
            assert said in last and "Traceback" not in result.stderr
        command = [PENSTOCK, "upgrade", "--port", str(urlsplit(server.url).port)]
        killed = subprocess.Popen(command, stderr=subprocess.PIPE)
        os.kill(starting_process(server, set(engines)), signal.SIGKILL)
        assert killed.wait(60) == 1
        assert killed.stderr is not None and b"was ended by SIGKILL" in killed.stderr.read()
        killed.stderr.close()
        called_off = subprocess.Popen(command)
        new = starting_process(server, set(engines))
        called_off.send_signal(signal.SIGINT)
        assert called_off.wait(60) == 130
        end = time.monotonic() + 60
        while Path(f"/proc/{new}").exists():
            assert time.monotonic() < end, "nobody waits for what it would have done"
            time.sleep(0.02)
        assert server.engine_pids() == engines
        assert server.status("/ready") == 200
        assert server.client().chat.completions.create(**ASK, max_tokens=3).choices[0].finish_reason == "length"


def test_no_server_is_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [PENSTOCK, "upgrade", "--control", str(tmp_path / "none")], text=True, capture_output=True, timeout=60
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "no server is reached by" in line and "--control" in line


async def test_what_the_old_server_has_begun_ends_there(start_server: Any) -> None:
    """Then both are told to stop through the first one's process id, which never changes."""
    with start_server() as server:
        async with server.async_client() as client, httpx.AsyncClient(base_url=server.url, timeout=60) as kept:
            undisturbed = await asyncio.gather(*(text_of(client, seed, 1000, asyncio.Event()) for seed in range(4)))
            begun = [asyncio.Event() for _ in range(4)]
            streams = [asyncio.create_task(text_of(client, seed, 1000, event)) for seed, event in enumerate(begun)]
            await asyncio.gather(*(event.wait() for event in begun))
            heard: list[tuple[str, str | None]] = []

            async def listen() -> None:
                while not heard or heard[-1][0] != "new":
                    response = await kept.get("/v1/models")
                    heard.append((response.json()["data"][0]["id"], response.headers.get("connection")))
                    await asyncio.sleep(0.1)

            listening = asyncio.create_task(listen())
            old_engines = server.engine_pids()
            result = await asyncio.to_thread(upgrade, server.url, "--", "--served-model-name", "new")
            assert result.returncode == 0, result.stderr
            assert f"has taken over from process {server.process.pid}" in result.stderr
            await asyncio.wait_for(listening, 60)
            assert heard[0] == ("demo", None)
            assert heard[-2:] == [("demo", "close"), ("new", None)], "the old one says to connect anew"
            assert await asyncio.gather(*streams) == undisturbed
        end = time.monotonic() + 60
        command = Path(f"/proc/{server.process.pid}/cmdline")
        while b"stand_in.py" not in await asyncio.to_thread(command.read_bytes):
            assert time.monotonic() < end, "the old server does not end"
            await asyncio.sleep(0.05)
        (new,) = server.engine_pids()
        assert new not in old_engines
        paths = candidates(urlsplit(server.url).port or 0, os.environ)
        assert any([await asyncio.to_thread(path.exists) for path in paths])
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        assert not any([await asyncio.to_thread(path.exists) for path in paths])


async def test_in_place_connections_wait_for_the_new_engine(start_server: Any) -> None:
    with start_server() as server:
        async with server.async_client() as client:
            undisturbed = await text_of(client, 1, 800, asyncio.Event())
            begun = asyncio.Event()
            stream = asyncio.create_task(text_of(client, 1, 800, begun))
            await begun.wait()
            (engine,) = server.engine_pids()
            failing = asyncio.create_task(
                asyncio.to_thread(upgrade, server.url, "--in-place", "--", "--max-model-len", "1000000")
            )
            assert await stream == undisturbed, "it ends before its engine does"
            result = await failing
            assert result.returncode == 1 and "exceeds what the model was made for" in result.stderr
            (again,) = server.engine_pids()
            assert again != engine, "its memory was given up"
            assert await text_of(client, 1, 800, asyncio.Event()) == undisturbed

        async with httpx.AsyncClient(base_url=server.url, timeout=120) as kept:
            assert (await kept.get("/ready")).status_code == 200
            upgrading = asyncio.create_task(asyncio.to_thread(upgrade, server.url, "--in-place"))
            answers = 0
            while not upgrading.done():
                async with httpx.AsyncClient(base_url=server.url, timeout=120) as new:
                    answers += (await new.get("/ready")).status_code == 200
            assert (await upgrading).returncode == 0
            assert answers
            assert (await kept.get("/ready")).status_code == 200, "its connection was closed while nothing came over it"
        async with server.async_client() as client:
            assert await text_of(client, 1, 800, asyncio.Event()) == undisturbed


async def resumed_text(url: str, seed: int, tokens: int, begun: asyncio.Event) -> str:
    """The text of an answer that is gone on with as often as its connection breaks.

    It is the first of eight choices, which take their time however fast the machine is.
    """
    text, place, last = "", "", ""
    while True:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            body = {**ASK, "seed": seed, "max_tokens": tokens, "stream": True, "ignore_eos": True, "n": 8}
            del body["extra_body"]
            if place:
                request = client.stream("GET", f"/v1/streams/{place}", headers={"Last-Event-ID": last} if last else {})
            else:
                request = client.stream("POST", "/v1/chat/completions", json=body, headers={"X-Penstock-Resume": "sse"})
            with suppress(httpx.TransportError):
                async with request as response:
                    assert response.status_code in (200, 503), await response.aread()
                    place = response.headers.get("x-penstock-stream", place)
                    async for line in response.aiter_lines():
                        if line.startswith("id: "):
                            last = line.removeprefix("id: ")
                        elif line == "data: [DONE]":
                            return text
                        elif line.startswith("data: "):
                            chunk = json.loads(line.removeprefix("data: "))
                            if "error" in chunk:
                                break
                            choice = chunk["choices"][0]
                            text += (choice["delta"].get("content") or "") if choice["index"] == 0 else ""
                            begun.set()
        await asyncio.sleep(0.1)


async def test_in_place_streams_of_a_journal_go_on(start_server: Any, tmp_path: Path) -> None:
    """In the old server, where the new one fails, and else in the new one."""
    with start_server("--journal", str(tmp_path / "journal"), "--drain-timeout", "0.1") as server:
        undisturbed = await resumed_text(server.url, 1, 1500, asyncio.Event())
        for arguments, status in ((["--", "--max-model-len", "1000000"], 1), ([], 0)):
            begun = asyncio.Event()
            stream = asyncio.create_task(resumed_text(server.url, 1, 1500, begun))
            await begun.wait()
            result = await asyncio.to_thread(upgrade, server.url, "--in-place", *arguments)
            assert result.returncode == status, result.stderr
            assert await asyncio.wait_for(stream, 120) == undisturbed
        assert "1 requests are not done" in server.log.read_text()


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2])
async def test_a_stop_right_after_an_upgrade_is_heard(start_server: Any, delay: float) -> None:
    """While what took over is there and what it follows is ending: the fixture's signal ends both."""
    with start_server("--drain-timeout", "0.1") as server:
        result = await asyncio.to_thread(upgrade, server.url)
        assert result.returncode == 0, result.stderr
        await asyncio.sleep(delay)
    async with httpx.AsyncClient(base_url=server.url, timeout=5) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/ready")
