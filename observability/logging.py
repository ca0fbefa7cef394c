"""Structured logs on the standard library: lines of text or of JSON, each with the id of its request.

Code logs as usual (``logging.getLogger(__name__)``, further fields by ``extra={...}``). What identifies a request
is bound once with :func:`log_context` and stands in every line written while it is served. Prompts, outputs and
keys are never passed to a logger; what looks like a key is masked all the same.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, TextIO

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}
_KEY = re.compile(r"(\bbearer\s+|\bsk-)[\w.~+/=-]{8,}", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Put ``fields`` (``request_id``, ``tenant``) into every line logged inside, in tasks started inside as well."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def current_context() -> Mapping[str, str]:
    """The fields bound by the enclosing :func:`log_context` blocks."""
    return _context.get()


def configure_logging(level: LogLevel, style: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send the logs of the whole process, uvicorn's included, to ``stream``.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        style: ``text`` for people, ``json`` for one object a line.
        stream: where to write.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter() if style == "json" else TextFormatter())
    handler.addFilter(_add_context)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # The gateway says for itself that it starts, stops and serves a request.
    for name in ("uvicorn.error", "uvicorn.access", "httpx", "httpcore", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _add_context(record: logging.LogRecord) -> bool:
    """Bind the fields when the line is written: by the task that logs, not by whoever formats it later."""
    for name, value in _context.get().items():
        if name not in record.__dict__:
            setattr(record, name, value)
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _masked(text: str) -> str:
    return _KEY.sub(r"\1…", text)


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.123 INFO  gateway.server: message  request_id=…``, one line but for tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
        line = _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), line)
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return _masked(line)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _masked(json.dumps(line, ensure_ascii=False, default=str))
