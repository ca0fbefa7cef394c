"""The worked example of docs/adding-a-route.md: its file is found by the scan, and its own tests pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_for_tests import CONTEXT, serving

import gateway.routes

PAGE = (Path(__file__).parents[3] / "docs/adding-a-route.md").read_text(encoding="utf-8")
ROUTE, TESTS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's route, as a file more in the package."""
    (tmp_path / "room_of_the_documentation.py").write_text(ROUTE)
    with monkeypatch.context() as patch:
        patch.setattr(gateway.routes, "__path__", [*gateway.routes.__path__, str(tmp_path)])
        yield


def those_of_the_page() -> dict[str, Any]:
    names: dict[str, Any] = {"serving": serving, "CONTEXT": CONTEXT}
    exec(compile(TESTS, "docs/adding-a-route.md", "exec"), names)
    return {name: test for name, test in names.items() if name.startswith("test_")}


@pytest.mark.parametrize("name", those_of_the_page())
async def test_the_page_says(name: str) -> None:
    await those_of_the_page()[name]()


async def test_the_openapi_document_has_it() -> None:
    async with serving() as server:
        document = (await server.client.get("/openapi.json")).json()
    assert document["paths"]["/room"]["post"]["summary"] == "How long may an answer be"
    assert set(document["components"]["schemas"]["RoomRequest"]["properties"]) == {"text", "reserve"}
