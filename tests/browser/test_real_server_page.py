"""The page against the real server and the demo model: what a newcomer sees."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def server_url(server: Any) -> str:
    return f"{server.url}/"


async def test_a_newcomer_chats_with_the_demo_model(browser_page: Page, server: Any) -> None:
    page = browser_page
    await expect(page.get_by_text("demo", exact=True).first).to_be_visible()
    box = page.get_by_role("textbox").first
    await box.fill("What is the capital of France?")
    await box.press("Enter")
    await expect(page.get_by_text("The capital of France is Paris.").first).to_be_visible(timeout=20_000)
    await expect(page.locator(".meta").last).to_contain_text("tokens/s", timeout=20_000)
    server.wait_idle()


async def test_stop_frees_the_request(browser_page: Page, server: Any, long_answer: dict[str, Any]) -> None:
    page = browser_page

    async def make_long(route: Route) -> None:
        await route.continue_(post_data=route.request.post_data_json | long_answer)

    await page.route("**/v1/chat/completions", make_long)
    with server.cut_short():
        box = page.get_by_role("textbox").first
        await box.fill("Tell me a story.")
        await box.press("Enter")
        await expect(page.locator(".answer > .text").last).not_to_be_empty(timeout=20_000)
        await page.get_by_role("button", name="Stop").click(timeout=20_000)
        await expect(page.locator(".meta").last).to_have_text("stopped")
