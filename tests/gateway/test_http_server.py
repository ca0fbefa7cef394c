"""A listening socket that is let go of, and taken up again, under a real uvicorn."""

from __future__ import annotations

import asyncio
import socket

import httpx
from http_for_tests import FakeLifecycle, engine_info, make_state
from tokenizers_for_tests import byte_level

from gateway.http_server import HttpServer


async def test_connections_wait_while_nobody_accepts() -> None:
    http = HttpServer(make_state(FakeLifecycle(engine_info(byte_level())), []))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await http.start()
        async with httpx.AsyncClient(base_url=base) as kept, httpx.AsyncClient(base_url=base) as new:
            early = asyncio.create_task(kept.get("/health"))
            await http.accept(listener)
            assert (await early).status_code == 200
            http.stop_accepting()
            assert (await kept.get("/health")).status_code == 200, "its connection is open"
            waiting = asyncio.create_task(new.get("/health"))
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            assert not done and http.connections == 1
            await http.accept(listener)
            assert (await waiting).status_code == 200
            assert http.connections == 2
        await http.end(5, asyncio.Event())
        assert http.connections == 0


async def test_hurry_cuts_the_end_short() -> None:
    http = HttpServer(make_state(FakeLifecycle(engine_info(byte_level())), []))
    at_once = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await http.start()
        await http.accept(listener)
        host, port = listener.getsockname()
        _, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 10\r\n\r\n")  # and its body never comes
        while True:
            if tasks := list(http.server_state.tasks):
                break
            await asyncio.sleep(0.01)
        ending = asyncio.create_task(http.end(1000, at_once))
        done, _ = await asyncio.wait({ending}, timeout=0.3)
        assert not done
        at_once.set()
        await asyncio.wait_for(ending, 30)
        assert http.lifespan.shutdown_event.is_set() and not http.lifespan.error_occurred, "the application has ended"
        for task in tasks:
            task.cancel()
        writer.close()
