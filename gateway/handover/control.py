"""The unix socket by which ``penstock upgrade`` finds and reaches a running server, of the same user alone.

It lies in a folder that nobody else may enter, and whoever connects is asked for by the kernel's own knowledge of the
peer (SO_PEERCRED). A new server puts its socket in the place of the old one's in one step, so there is always one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gateway.handover.messages import Failed, ToCommand, ToServer, encode

logger = logging.getLogger(__name__)

Say: TypeAlias = Callable[[ToCommand], None]
Answer: TypeAlias = Callable[[ToServer, Say], Coroutine[Any, Any, ToCommand]]
"""Gives the last message; those before it go to ``Say``. Cancelled when the other side hangs up."""

_LONGEST_PATH = 100
"""Unix socket paths have about 107 bytes."""
_LONGEST_LINE = 2**20
_FAREWELL = 5.0
"""Seconds for the last message to those who are connected."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group."""


class ControlError(Exception):
    """There cannot be such a socket; one readable line."""


def default_path(port: int, environ: Mapping[str, str]) -> Path:
    """In the folder that the login manager made for this user, or else in one of our own in /tmp."""
    return candidates(port, environ)[0]


def candidates(port: int, environ: Mapping[str, str]) -> list[Path]:
    """Where the socket of a server on ``port`` may be: its environment can be another than the command's."""
    folders = [Path(f"/tmp/penstock-{os.geteuid()}")]
    if (runtime := environ.get("XDG_RUNTIME_DIR")) and Path(runtime).is_dir():
        folders.insert(0, Path(runtime) / "penstock")
    return [folder / f"{port}.sock" for folder in folders]


def prepare(path: Path, *, instead: bool = False) -> None:
    """Makes the folder, and finds out what can be known before there is a socket; arguments and errors of ``open``."""
    if sys.platform != "linux":
        raise ControlError("upgrades need Linux")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ControlError(f"{path} is too long for a unix socket: at most {_LONGEST_PATH} bytes")
    try:
        _own_folder(path.parent)
        if not instead and _is_alive(path):
            raise ControlError(f"another server is reached by {path}")
    except OSError as error:
        raise ControlError(f"{error.filename or path}: {error.strerror or error}") from None


class Control:
    """``open`` once, ``close`` once."""

    def __init__(self, path: Path, answer: Answer, *, user: int | None = None) -> None:
        """``user``: the only one who may connect, this process's own where it is None."""
        self._path = path
        self._answer = answer
        self._user = os.geteuid() if user is None else user
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def open(self, *, instead: bool = False) -> None:
        """``instead``: a server that is there is the one we follow. Raises ``ControlError``."""
        prepare(self._path, instead=instead)
        try:
            listener = _bound(self._path)
        except OSError as error:
            raise ControlError(f"{error.filename or self._path}: {error.strerror or error}") from None
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._accepted, sock=listener, limit=_LONGEST_LINE)

    async def reclaim(self) -> None:
        """Be reached again, where a server that was to follow took the place and is gone. Raises ``ControlError``."""
        if self._server is None or self._is_ours():
            return
        # Who is connected is still answered.
        self._server.close()
        await self.open()

    async def close(self, *, call_off: bool) -> None:
        """Nobody is accepted any more, and those who are connected have had their last message.

        ``call_off``: what was asked for and is not done is not to be done any more.
        """
        if self._server is None:
            return
        self._server.close()
        if self._is_ours():
            with contextlib.suppress(OSError):
                self._path.unlink()
        if not call_off and self._talks:
            await asyncio.wait(self._talks, timeout=_FAREWELL)
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _is_ours(self) -> bool:
        """Whether the socket there is not that of a server that follows."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            await self._talk(reader, writer)
        except (OSError, ValueError) as error:
            logger.warning("control socket: %s", error)
        except asyncio.CancelledError:
            pass  # by ``close``; asyncio's streams would log it as a failure
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:

        def say(message: ToCommand) -> None:
            writer.write(encode(message) + b"\n")

        line = await reader.readline()
        if not line:
            return
        user = _user_of(writer.get_extra_info("socket").fileno())
        if user != self._user:
            logger.warning("control socket: user %d is not served", user)
            say(Failed("the server is another user's"))
            return
        try:
            request: ToServer = msgspec.json.decode(line, type=ToServer)
        except msgspec.DecodeError as error:
            say(Failed(f"the server does not understand this request ({error}): is it of another release?"))
            return
        answering = asyncio.ensure_future(self._answer(request, say))
        leaving = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
            say(await answering)
            await writer.drain()
        except asyncio.CancelledError:
            if not answering.cancelled():
                raise
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


def _own_folder(folder: Path) -> None:
    """Makes it where it is missing. Raises ``ControlError`` where others may enter it, or have made it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ControlError(f"{folder} must be a folder of this user's with mode 0700")


def _user_of(connection: int) -> int:
    """Who is at the other end."""
    with socket.socket(fileno=os.dup(connection)) as peer:
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(packed)[1]
    return user


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def _bound(path: Path) -> socket.socket:
    """A listening socket at ``path``, whatever was there."""
    temporary = path.with_name(f".{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(temporary))
        listener.listen()
        temporary.rename(path)
    except BaseException:
        listener.close()
        raise
    return listener
