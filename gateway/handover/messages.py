"""What the command, the running server and the one that follows say to each other.

JSON, one object each: the two servers, and the command, may be of different releases. A field that is added needs a
default.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import msgspec


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It did not work, and the old server goes on."""

    message: str
    """One line, for the person at the terminal."""


# --- command → server -------------------------------------------------------------------------------------


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """What server is this?"""


class Upgrade(msgspec.Struct, frozen=True, kw_only=True, tag="upgrade"):
    """Start a server with this command line and hand over to it. A connection that ends meanwhile calls it off."""

    command: list[str]
    in_place: bool = False
    """Whether the old engines end before the new ones load."""


# --- server → command -------------------------------------------------------------------------------------


class Running(msgspec.Struct, frozen=True, kw_only=True, tag="running"):
    pid: int
    version: str
    url: str
    arguments: list[str]
    """Of its command line, after the program."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    text: str


class Upgraded(msgspec.Struct, frozen=True, kw_only=True, tag="upgraded"):
    """The new server accepts connections, and the old one does not any more."""

    pid: int
    unfinished: int
    """Requests that the old server has still to answer."""


# --- new server → old -------------------------------------------------------------------------------------


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """Settings are read and the model's files are here; its engines have not been told what to load."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Its engines are up: it could serve."""


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """It accepts connections."""


# --- old server → new -------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Go on to being ready."""

    port: int
    """Of the listening socket that will be handed over."""


class Listener(msgspec.Struct, frozen=True, tag="listener"):
    """Comes with the listening socket."""


ToServer: TypeAlias = Ask | Upgrade
ToCommand: TypeAlias = Running | Progress | Upgraded | Failed
ToPredecessor: TypeAlias = Prepared | Ready | Serving | Failed
ToSuccessor: TypeAlias = Load | Listener

M = TypeVar("M", bound=msgspec.Struct)


def encode(message: msgspec.Struct) -> bytes:
    """Without a line break."""
    return msgspec.json.encode(message)
