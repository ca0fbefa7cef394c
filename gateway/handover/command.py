"""``penstock upgrade``: asks a running server to start the next one and hand over to it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gateway.handover.messages import Ask, Failed, Progress, Running, ToCommand, ToServer, Upgrade, Upgraded, encode

Parse: TypeAlias = Callable[[Sequence[str]], dict[str, Any]]
"""The arguments of ``penstock serve`` → what was given, by the names of settings."""


class NoServerError(Exception):
    """The server cannot be asked, or did not do it; one readable line."""


def upgrade(
    places: Sequence[Path], overrides: Sequence[str], *, in_place: bool, parse: Parse, say: Callable[[str], None]
) -> None:
    """Ask the server that is reached by one of ``places``. Raises ``NoServerError`` and what ``parse`` raises."""
    with _connected(places) as talk:
        talk.send(Ask())
        running = talk.receive()
        if not isinstance(running, Running):
            raise NoServerError(f"the server answers what was not asked: {running}")
    arguments = running.arguments
    if overrides:
        arguments = ["serve", *rendered(parse(arguments[1:]) | parse(overrides))]
    say(f"process {running.pid} (version {running.version}) serves at {running.url}")
    with _connected(places) as talk:
        # The release that is started is the one that this command belongs to.
        talk.send(Upgrade(command=[sys.executable, str(Path(sys.argv[0]).absolute()), *arguments], in_place=in_place))
        while True:
            match talk.receive():
                case Progress(text):
                    say(text)
                case Upgraded(pid=pid, unfinished=unfinished):
                    left = f", which has {unfinished} requests to finish" if unfinished else ""
                    say(f"process {pid} has taken over from process {running.pid}{left}")
                    return
                case Failed(message):
                    raise NoServerError(f"{message} (process {running.pid} goes on)")
                case other:
                    raise NoServerError(f"the server answers what was not asked: {other}")


def rendered(given: Mapping[str, Any]) -> list[str]:
    """Settings, as their flags parse them → arguments of ``penstock serve`` that say the same."""
    arguments = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if name == "model":
            arguments.append(value)
        elif isinstance(value, bool):
            arguments.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            arguments += [f"{flag}={each}" for each in (value if isinstance(value, list | tuple) else [value])]
    return arguments


class _Talk:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    def send(self, message: ToServer) -> None:
        self._connection.sendall(encode(message) + b"\n")

    def receive(self) -> ToCommand:
        line = self._lines.readline()
        if not line:
            raise NoServerError("the server has hung up: its log may say why")
        try:
            message: ToCommand = msgspec.json.decode(line, type=ToCommand)
        except msgspec.DecodeError:
            raise NoServerError("the server's answer is not understood: is it of another release?") from None
        return message

    def close(self) -> None:
        self._lines.close()


@contextmanager
def _connected(places: Sequence[Path]) -> Iterator[_Talk]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        for place in places:
            try:
                connection.connect(str(place))
                break
            except OSError as error:
                reason = f"no server is reached by {place}: {error.strerror or error}"
        else:
            raise NoServerError(f"{reason}; name its socket by --control, or its port by --port")
        talk = _Talk(connection)
        try:
            yield talk
        except OSError as error:
            raise NoServerError(f"the server at {place} is gone: {error.strerror or error}") from None
        finally:
            talk.close()
