"""A real Chromium for the chat page.

``browser_page`` is a fresh tab that has the page of ``server_url`` open, and that fails the test if the page logged an
error, broke its Content-Security-Policy or asked any other origin for anything. ``server_url`` is a scripted server,
``fake``; a test module that means another server overrides ``server_url``. Tests and fixtures here share one event
loop (``pytest.mark.asyncio(loop_scope="session")``), since a browser belongs to the loop that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

from gateway.errors import APIError, InvalidAPIKey
from gateway.routes.page import router

expect.set_options(timeout=60_000)  # a busy machine is no failure

Script = Callable[[], AsyncIterator[bytes]]
OpenPage = Callable[..., contextlib.AbstractAsyncContextManager[Page]]

QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

POOR_CONTRAST = r"""() => {
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    for (; ; node = node.parentElement) {
      const color = rgb(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.disabled || node.matches("option")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([node.outerHTML.slice(0, 80), (a + 0.05) / (b + 0.05)]);
  }
  return poor;
}"""
"""Texts below WCAG AA's contrast of 4.5 to 1."""


@pytest.fixture
def poor_contrast() -> str:
    """A function for ``page.evaluate``: texts that are hard to read."""
    return POOR_CONTRAST


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, headless, with a profile of its own that goes when it goes."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("chromium is not installed: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=QUIET, chromium_sandbox=False)
        yield browser
        await browser.close()


class Watch:
    """What a page did that it never should: errors it logged, and requests that left its origin."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.errors: list[str] = []
        self.strays: list[str] = []
        self.origin = origin
        context.on("console", self.console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self.request(request.url))

    def console(self, message: ConsoleMessage) -> None:
        # The browser itself logs each answer of 4xx or 5xx and each broken connection; tests provoke those.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.strays.append(url)


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, server_url: str) -> OpenPage:
    """``async with open_page(**context_options) as page``: the page in a fresh context, watched."""

    @contextlib.asynccontextmanager
    async def open_page(**options: object) -> AsyncIterator[Page]:
        context = await browser.new_context(**({"reduced_motion": "reduce"} | options))
        watch = Watch(context, server_url.rstrip("/"))
        try:
            page = await context.new_page()
            page.set_default_timeout(60_000)
            await page.goto(server_url)
            yield page
        finally:
            await context.close()
        assert watch.errors == []
        assert watch.strays == []

    return open_page


@pytest_asyncio.fixture(loop_scope="session")
async def browser_page(open_page: OpenPage) -> AsyncIterator[Page]:
    """A tab of 1280 × 800 with the page open."""
    async with open_page(viewport={"width": 1280, "height": 800}) as page:
        yield page


class FakeServer:
    """An OpenAI server that does what a test says, in the order said: one thing for each chat request."""

    MODEL = "penstock-demo"
    DONE = b"data: [DONE]\n\n"

    def __init__(self) -> None:
        self.key = ""
        """The API key that it wants, if any."""
        self.efforts: list[str] = []
        """Values of reasoning_effort that its model knows."""
        self.not_ready: str | None = None
        """What ``/ready`` says is missing, if anything."""
        self.bodies: list[dict[str, Any]] = []
        self.aborted = threading.Event()
        """Set once a client has gone away in the middle of a stream."""
        self.go_on = threading.Event()
        self._answers: list[APIError | Script] = []

    def then(self, *answers: APIError | Script) -> None:
        """Refuse the next request with an error, or stream the bytes of a script."""
        self._answers += answers

    def saying(self, text: str, *, pause: float = 0.01, finish: str = "stop") -> Script:
        """A script for a whole answer, word by word, ``pause`` seconds apart."""

        async def script() -> AsyncIterator[bytes]:
            words = re.findall(r"\s*\S+\s*$|\s*\S+", text)
            for word in words:
                yield self.chunk(word)
                await asyncio.sleep(pause)
            yield self.ending(len(words), finish)

        return script

    def chunk(
        self,
        text: str | None = None,
        *,
        finish: str | None = None,
        usage: dict[str, int] | None = None,
        member: str = "content",
        index: int = 0,
    ) -> bytes:
        delta = {member: text} if text else {}
        choices = [] if usage else [{"index": index, "delta": delta, "finish_reason": finish}]
        body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.MODEL}
        body |= {"choices": choices} | ({"usage": usage} if usage else {})
        return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"

    def ending(self, tokens: int, finish: str = "stop", *, answers: int = 1) -> bytes:
        usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
        finishes = b"".join(self.chunk(finish=finish, index=index) for index in range(answers))
        return finishes + self.chunk(usage=usage) + self.DONE

    async def wait_for_test(self) -> None:
        """For a script: until the test sets ``go_on``."""
        await asyncio.to_thread(self.go_on.wait, 60)
        self.go_on.clear()

    def models(self, request: Request) -> dict[str, Any]:
        self._check(request)
        return {
            "object": "list",
            "data": [{"id": self.MODEL, "object": "model", "reasoning_efforts": self.efforts}],
        }

    async def chat(self, request: Request) -> Response:
        self._check(request)
        self.bodies.append(await request.json())
        answer = self._answers.pop(0)
        if isinstance(answer, APIError):
            raise answer
        return StreamingResponse(self._stream(answer), media_type="text/event-stream; charset=utf-8")

    async def _stream(self, script: Script) -> AsyncIterator[bytes]:
        try:
            async for piece in script():
                yield piece
        except asyncio.CancelledError:
            self.aborted.set()
            raise

    def _check(self, request: Request) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise InvalidAPIKey("Incorrect API key provided.")


@pytest.fixture(scope="session")
def fake_app() -> Iterator[tuple[FastAPI, str]]:
    """The page and ``app.state.fake``, served from a thread on a free port."""
    app = FastAPI()
    app.include_router(router)

    @app.exception_handler(APIError)
    async def refuse(request: Request, error: APIError) -> Response:
        return JSONResponse(error.body(), error.status, headers=error.headers | {"x-request-id": "req-7"})

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        return app.state.fake.models(request)

    @app.get("/ready")
    async def ready() -> Response:
        reason = app.state.fake.not_ready
        headers = {"retry-after": "1", "retry-after-ms": "200"}
        return JSONResponse({"ready": not reason, "reason": reason}, 503 if reason else 200, headers)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await app.state.fake.chat(request)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, log_level="critical", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def fake(fake_app: tuple[FastAPI, str]) -> FakeServer:
    """The scripted server, with nothing said to it yet."""
    app, _ = fake_app
    app.state.fake = FakeServer()
    return app.state.fake


@pytest.fixture
def server_url(fake: FakeServer, fake_app: tuple[FastAPI, str]) -> str:
    """Where ``browser_page`` goes."""
    return fake_app[1]
