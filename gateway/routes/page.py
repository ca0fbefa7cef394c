"""The chat page at ``/``, the live page at ``/live``, and the files they are made of, from package data.

The files are plain HTML, CSS and JavaScript modules, served as they lie in ``gateway/static``; what both pages have in
common, ``*.part``, is put in where they say ``<!-- part: NAME -->``. The page may load nothing from elsewhere, and
nothing that a model writes can become markup or run: its own code inserts text only, and the Content-Security-Policy
holds the browser to it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePath

from fastapi import APIRouter, Request, Response

from gateway.errors import NotFound

router = APIRouter(include_in_schema=False)

HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # No string ever becomes HTML or script, not even by a mistake in the page's own code.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # File names carry no version, so a browser asks each time; the ETag makes that answer an empty 304.
    "cache-control": "no-cache",
}

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_STATIC = resources.files("gateway").joinpath("static")
_PART = re.compile(rb" *<!-- part: (\w+) -->\n")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of the page, held in memory: together they are some hundred kilobytes."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, file: Traversable) -> StaticFile:
        body = file.read_bytes()
        suffix = PurePath(file.name).suffix
        if suffix == ".html":
            body = _PART.sub(lambda found: _STATIC.joinpath(f"{found[1].decode()}.part").read_bytes(), body)
        return cls(body, MEDIA_TYPES[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """The file, or 304 where the browser holds this very version."""
        headers = HEADERS | {"etag": self.etag}
        held = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.etag in held or "*" in held:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


FILES = {file.name: StaticFile.read(file) for file in _STATIC.iterdir() if not file.name.endswith(".part")}
"""Every file that is served. A name that is not here is a 404, so no path is ever built from a request."""


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The chat page."""
    return FILES["index.html"].answer(request)


@router.api_route("/live", methods=["GET", "HEAD"])
async def live(request: Request) -> Response:
    """The live page: what the server does now."""
    return FILES["live.html"].answer(request)


@router.api_route("/static/{file}", methods=["GET", "HEAD"])
async def static_file(file: str, request: Request) -> Response:
    """One of the page's files by its exact name. Raises ``NotFound`` for any other."""
    if file not in FILES:
        raise NotFound(f"There is no file /static/{file}.")
    return FILES[file].answer(request)
