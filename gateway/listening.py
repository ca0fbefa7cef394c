"""The listening socket, and the address that it is reached at."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack


class StartError(Exception):
    """The server cannot start; one readable line."""


def listen(host: str, port: int) -> socket.socket:
    """Taken before anything is loaded, so that a mistake shows at once. Raises ``StartError``."""
    with ExitStack() as undo:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # until then, SO_REUSEADDR would let another server bind the same port
        except OSError as error:
            way_out = "; --port takes another one, 0 a free one" if error.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}{way_out}") from None
        listener.setblocking(False)
        undo.pop_all()
        return listener


def url_of(host: str, port: int) -> str:
    """As a browser on this machine would write it."""
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
