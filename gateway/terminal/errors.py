"""What goes wrong between a command and a server. Light: every command imports it."""

from __future__ import annotations


class ServerError(Exception):
    """What went wrong, in one line for the person at the terminal."""


class AwayError(ServerError):
    """The server could not be reached, or the connection broke: it may come back."""
