"""A server, as the commands of the terminal see it. Every failure is a ``ServerError`` of one readable line."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.terminal.errors import AwayError, ServerError

_LONGEST_ABSENCE = 90.0
"""Seconds that a server may be away in the middle of an answer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 4.0


@dataclass(slots=True)
class Answer:
    """What came of one request."""

    text: str = ""
    finish: str | None = None
    tokens: int = 0
    first: float | None = None
    """Seconds from the request to the first text."""
    duration: float = 0.0
    """Seconds from the request to the last text."""

    @property
    def figures(self) -> str:
        """The line under an answer."""
        parts = []
        if self.first is not None:
            parts.append(
                f"first token {self.first * 1000:.0f} ms" if self.first < 1 else f"first token {self.first:.1f} s"
            )
        if self.tokens:
            parts.append(f"{self.tokens} token{'s' if self.tokens != 1 else ''}")
            if self.duration > 0:
                parts.append(f"{self.tokens / self.duration:.1f} tokens/s")
        if self.finish == "length":
            parts.append("cut off at the length limit")
        return " · ".join(parts) or "no text"


@dataclass(slots=True)
class _Reading:
    """How far a stream has been read."""

    stream: str | None = None
    last: str = ""
    finished: bool = False
    done: bool = False
    answer: Answer = field(default_factory=Answer)


class Server:
    """One server, by its URL without ``/v1``. A context manager: it holds connections."""

    def __init__(self, url: str, api_key: str | None, *, transport: httpx.BaseTransport | None = None) -> None:
        """Raises ``ServerError`` where ``url`` is none."""
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(10, read=120)
        try:
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, trust_env=False, transport=transport
            )
            address = self._client.base_url
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerError(f"{url} is no address: {error}") from error
        if address.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", address.host):
            raise ServerError(f"{url} is no address of a server: write http://HOST:PORT")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str) -> httpx.Response:
        """Raises ``ServerError`` for all but a success."""
        with _readable(self.url):
            return _checked(self._client.get(path))

    def get_or_none(self, path: str) -> httpx.Response | None:
        """The same, with None where the server has no such path."""
        with _readable(self.url):
            response = self._client.get(path)
            return None if response.status_code == 404 else _checked(response)

    def models(self) -> list[str]:
        """The names it serves, its own choice first."""
        try:
            names = [str(model["id"]) for model in self.get("/v1/models").json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{self.url} does not speak OpenAI's API") from error
        if not names:
            raise ServerError(f"{self.url} lists no model")
        return names

    def chat(self, body: dict[str, Any], show: Callable[[str], None], pausing: Callable[[], None]) -> Answer:
        """One answer, handing its text to ``show`` as it comes.

        A connection that breaks is replaced by another, where the server offers that; ``pausing`` is then called.
        KeyboardInterrupt ends the request at the server and is raised on, its part of the answer in ``args[0]``.
        """
        reading = _Reading()
        began = time.monotonic()
        request = body | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            self._read("POST", "/v1/chat/completions", reading, began, show, json=request)
            deadline, pause = time.monotonic() + _LONGEST_ABSENCE, _FIRST_PAUSE
            while not reading.done:
                if reading.stream is None:
                    raise ServerError("the connection was lost in the middle of the answer")
                pausing()
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                before = reading.last
                try:
                    self._read("GET", f"/v1/streams/{reading.stream}", reading, began, show)
                except AwayError:
                    if time.monotonic() > deadline:
                        raise
                if time.monotonic() > deadline:
                    raise ServerError("the connection is lost again and again in the middle of the answer")
                if reading.last != before:
                    deadline, pause = time.monotonic() + _LONGEST_ABSENCE, _FIRST_PAUSE
        except KeyboardInterrupt:
            if reading.stream is not None:
                with contextlib.suppress(httpx.HTTPError):
                    self._client.delete(f"/v1/streams/{reading.stream}")
            raise KeyboardInterrupt(reading.answer) from None
        return reading.answer

    def _read(
        self, method: str, path: str, reading: _Reading, began: float, show: Callable[[str], None], **request: Any
    ) -> None:
        """Read until the stream is done, or the connection is gone in its middle: then ``reading.done`` is False."""
        headers = {"X-Penstock-Resume": "sse"} | ({"Last-Event-ID": reading.last} if reading.last else {})
        begun = False
        try:
            with self._client.stream(method, path, headers=headers, **request) as response:
                if response.status_code != 200:
                    response.read()
                _checked(response)
                begun = True
                reading.stream = response.headers.get("x-penstock-stream", reading.stream)
                for event_id, data in _events(response.iter_lines()):
                    if not self._take(event_id, data, reading, began, show):
                        return
        except httpx.TransportError as error:
            if not begun:
                raise AwayError(_unreachable(self.url, error)) from error
        reading.done = reading.done or (reading.finished and reading.stream is None)

    def _take(self, event_id: str, data: str, reading: _Reading, began: float, show: Callable[[str], None]) -> bool:
        """Whether to read on."""
        if data == "[DONE]":
            reading.done = True
            return False
        try:
            chunk = json.loads(data)
        except ValueError:
            raise ServerError("the server sent something that is no chat completion") from None
        if error := chunk.get("error"):
            if error.get("code") == "stream_parked":  # the server ends, and another goes on with the stream
                return False
            raise ServerError(_one_line(error.get("message") or "the server ended the answer with an error"))
        answer = reading.answer
        for choice in chunk.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                answer.duration = time.monotonic() - began
                answer.first = answer.first if answer.first is not None else answer.duration
                answer.text += text
                show(text)
            if choice.get("finish_reason"):
                answer.finish, reading.finished = choice["finish_reason"], True
        if usage := chunk.get("usage"):
            answer.tokens = usage["completion_tokens"]
        reading.last = event_id or reading.last
        return True


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """(id, data) of each server-sent event; one that is cut off is dropped."""
    event_id, data = "", []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("id:"):
            event_id = line[3:].strip()
        elif not line and data:
            yield event_id, "\n".join(data)
            data = []


def _checked(response: httpx.Response) -> httpx.Response:
    """Raises ``ServerError`` with the server's own words for all but a success."""
    if response.is_success:
        return response
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code} {response.reason_phrase}"
    if response.status_code == 401:
        message = f"{message} (give the key by --api-key or PENSTOCK_API_KEY)"
    kind = AwayError if response.status_code in (502, 503) else ServerError
    raise kind(_one_line(message))


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise AwayError(_unreachable(url, error)) from error


def _unreachable(url: str, error: Exception) -> str:
    return f"no server at {url}: {_one_line(str(error) or type(error).__name__)}"


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
