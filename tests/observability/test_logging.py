"""Lines carry the request they belong to, stay one line each, and never show a key."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from observability.logging import configure_logging, current_context, log_context

LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "filelock")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is written; the process-wide state of ``logging`` is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(levels[name])


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_the_message_its_fields_and_the_request(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    with log_context(request_id="req-1"), log_context(tenant="alice"):
        logging.getLogger("gateway.test").info("done in %s s", 2, extra={"tokens": 7})
    logging.getLogger("gateway.test").warning("alone")
    first, second = lines(stream)
    assert first["time"].endswith("Z")
    del first["time"]
    assert first == {
        "level": "info",
        "logger": "gateway.test",
        "message": "done in 2 s",
        "tokens": 7,
        "request_id": "req-1",
        "tenant": "alice",
    }
    assert "request_id" not in second


async def test_tasks_keep_their_own_request(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)

    async def serve(name: str) -> None:
        with log_context(request_id=name):
            for _ in range(3):
                await asyncio.sleep(0)
                logging.getLogger("gateway.test").info("from %s", name)

    await asyncio.gather(*(serve(f"r{number}") for number in range(5)))
    assert len(lines(stream)) == 15
    assert all(line["message"] == f"from {line['request_id']}" for line in lines(stream))
    assert current_context() == {}


def test_text_stays_on_one_line(stream: io.StringIO) -> None:
    configure_logging("info", "text", stream)
    with log_context(request_id="req-1"):
        logging.getLogger("gateway.test").info("a\nforged line\x1b[31m %s", "x", extra={"tokens": 7})
    (line,) = stream.getvalue().splitlines()
    assert r"a\nforged line\x1b[31m x" in line
    assert "request_id=req-1" in line and "tokens=7" in line


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_looks_like_a_key_is_masked(stream: io.StringIO, style: str) -> None:
    configure_logging("info", style, stream)
    logging.getLogger("gateway.test").info("header %s and %s", "Bearer abcdefgh12345678", "sk-proj-abcdefghijkl")
    assert "abcdefgh" not in stream.getvalue()
    assert "Bearer …" in stream.getvalue() and "sk-…" in stream.getvalue()


def test_a_traceback_is_kept(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("gateway.test").exception("failed")
    assert "ValueError: broken" in lines(stream)[0]["exception"]


def test_uvicorn_writes_its_troubles_here_and_nothing_else(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    logging.getLogger("uvicorn.access").info("GET /v1/models")
    logging.getLogger("uvicorn.error").info("Started")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    assert [line["message"] for line in lines(stream)] == ["Exception in ASGI application"]


def test_the_level_is_respected(stream: io.StringIO) -> None:
    configure_logging("warning", "json", stream)
    logging.getLogger("gateway.test").info("quiet")
    logging.getLogger("gateway.test").warning("loud")
    assert [line["message"] for line in lines(stream)] == ["loud"]
