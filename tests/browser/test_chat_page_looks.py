"""How the chat page looks: narrow and wide, in the light and in the dark. The screenshots it leaves are for people."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from gateway.errors import InvalidRequest, Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PLACES = """() => {
  const nodes = [...document.querySelectorAll("header *, .question, .answer, .answer > .text, #composer")];
  return nodes.map((node) => [node.className, node.getBoundingClientRect().x, node.getBoundingClientRect().y]);
}"""
"""Where everything is that text streaming in below must not move."""

STORY = (
    "Once upon a time, a small turbine lived at the foot of a hill. Every spring the snow melted, and the water ran "
    "down the long steel pipe to meet her.\n\n“Not so fast,” said the gate at the top. “I let through just what you "
    "can turn.”\n\nAnd so she turned, night and day, and the lamps in the valley never went out."
)

MARKDOWN = """## Opening a gate

Water pushes with a **force** that grows with depth, so open it *slowly*:

1. Close the valve behind it.
2. Raise it by `5 mm`, then wait.
   - Watch the gauge.
   - Note the time.

| depth | pressure |
|---|---|
| 1 m | 9.8 kPa |
| 10 m | 98 kPa |

```python
def pressure(depth: float) -> float:
    return 1000 * 9.81 * depth
```

> Every millimetre counts. See [the manual](https://example.com/manual)."""


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Message").fill(question)
    await page.get_by_label("Message").press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_it_looks_right(
    open_page: Any, fake: Any, poor_contrast: str, tmp_path: Path, width: int, scheme: str
) -> None:
    """No sideways scrolling, readable contrast, and nothing that jumps while text streams."""
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    size = {"width": width, "height": 844 if phone else 800}

    async def check(page: Page, name: str) -> None:
        await page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png")
        assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await page.evaluate(poor_contrast) == []

    async with open_page(viewport=size, color_scheme=scheme, **phone) as page:
        await expect(page.locator("#model")).to_have_text(fake.MODEL)
        await check(page, "welcome")

        fake.then(fake.saying('{"name": "Ada", "age": 36, "city": "Paris"}'), fake.saying(STORY, pause=0.005))
        await ask(page, "Give me a JSON object with name Ada, age 36 and city Paris.")
        await expect(page.locator(".meta")).to_contain_text("tokens/s")
        await ask(page, "Tell me a short story.")
        await expect(page.locator(".question")).to_have_count(2)
        places = await page.evaluate(PLACES)
        await expect(page.locator(".answer > .text").last).to_contain_text("Once upon")
        assert await page.evaluate(PLACES) == places
        await expect(page.locator(".meta").last).to_contain_text("tokens/s")
        assert await page.evaluate(PLACES) == places
        await check(page, "conversation")

        fake.then(InvalidRequest("This model has no images.", param="messages"), fake.saying("Well", finish="length"))
        fake.then(Unavailable("The engine is starting; try again shortly.", retry_after=60))
        for question in ("Draw a cat.", "A long question: " + "what is a word in many words? " * 6, "And now?"):
            await ask(page, question)
            await expect(page.locator(".notice").last).to_be_visible()
        await check(page, "notices")

        await page.get_by_role("button", name="Stop").click()
        fake.key = "sk-right"
        await ask(page, "Locked?")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await check(page, "key")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_what_is_drawn_and_what_opens_looks_right(
    open_page: Any, fake: Any, poor_contrast: str, tmp_path: Path, width: int, scheme: str
) -> None:
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    size = {"width": width, "height": 844 if phone else 800}

    async def check(page: Page, name: str) -> None:
        await page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png")
        assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await page.evaluate(poor_contrast) == []

    async def script() -> AsyncIterator[bytes]:
        for token, logprob in (("The", -0.02), (" sluice", -1.2), (" opens", -0.4), (" slowly", -2.6), (".", -0.1)):
            top = [{"token": token, "logprob": logprob}, {"token": " gate", "logprob": -1.9}]
            entry = {"token": token, "logprob": logprob, "top_logprobs": top}
            choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [entry]}, "finish_reason": None}
            yield b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        yield fake.ending(5)

    fake.then(fake.saying(MARKDOWN, pause=0), script)
    async with open_page(viewport=size, color_scheme=scheme, **phone) as page:
        await ask(page, "Explain it.")
        await expect(page.locator(".meta")).to_contain_text("tokens/s")
        await check(page, "markdown")
        await ask(page, "In a sentence?")
        await expect(page.get_by_role("button", name="Tokens")).to_be_visible()
        await page.get_by_role("button", name="Tokens").click()
        await page.locator(".token").nth(3).focus()
        await check(page, "tokens")
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("Format").select_option("json_schema")
        await check(page, "settings")
        await page.get_by_role("button", name="Close the settings").click()
        if phone:
            await page.get_by_role("button", name="Open the list of chats").click()
            await check(page, "library")
