"""The chat page's routes: what is served, under which headers, and nothing else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from gateway.errors import APIError
from gateway.routes.page import FILES, MEDIA_TYPES, router


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(router)

    @app.exception_handler(APIError)
    async def answer(request: Request, error: APIError) -> Response:
        return JSONResponse(error.body(), error.status)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://penstock") as client:
        yield client


def paths() -> list[str]:
    return ["/", *(f"/static/{name}" for name in FILES)]


@pytest.mark.parametrize("path", paths())
async def test_each_file_is_served_with_strict_headers(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    name = path.removeprefix("/static/") if path != "/" else "index.html"
    assert answer.status_code == 200
    if not name.endswith(".html"):
        assert answer.content == resources.files("gateway").joinpath("static", name).read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(name) for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {policy.pop(name) for name in ("default-src", "base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert policy == {"require-trusted-types-for": "'script'", "trusted-types": "'none'"}


@pytest.mark.parametrize("path", ["/", "/live"])
async def test_what_the_pages_have_in_common_is_put_in(client: httpx.AsyncClient, path: str) -> None:
    """Each once; the parts themselves are not served."""
    html = (await client.get(path)).text
    for text in ("<!doctype html>", "<meta charset", 'href="static/style.css"', "<title>", '<dialog id="key-dialog"'):
        assert html.count(text) == 1, text
    assert "<!--" not in html
    assert (await client.get("/static/head.part")).status_code == 404


@pytest.mark.parametrize("path", ["/", "/static/app.js"])
async def test_an_unchanged_file_costs_an_empty_304(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    for held in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await client.get(path, headers={"if-none-match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert (await client.get(path, headers={"if-none-match": '"other"'})).status_code == 200


async def test_head_is_answered(client: httpx.AsyncClient) -> None:
    assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/none.js",
        "/static/__init__.py",
        "/static/../errors.py",
        "/static/..%2ferrors.py",
        "/static/%2e%2e/errors.py",
        "/static/..%5cerrors.py",
        "/static/%2fetc%2fpasswd",
        "/static/app.js%00",
        "/static/APP.JS",
        "/static/a/app.js",
    ],
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


def test_every_file_of_the_page_is_served_and_names_no_outside_address() -> None:
    files = {file.name: file for file in resources.files("gateway").joinpath("static").iterdir() if file.is_file()}
    assert {name for name in files if not name.endswith(".part")} == set(FILES)
    for name, file in files.items():
        text = re.sub(r"(?m)^\s*//.*$", "", file.read_text())  # a comment may cite a standard
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}, name


def test_the_page_holds_no_inline_script_or_style_and_refers_only_to_served_files() -> None:
    html = "".join(file.body.decode() for name, file in FILES.items() if name.endswith(".html"))
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert set(re.findall(r"static/([\w.]+)", html)) <= set(FILES)
