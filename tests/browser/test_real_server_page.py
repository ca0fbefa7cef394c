"""The page against the real server and the demo model: what a newcomer sees, and what outlives a reload and a crash."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

TOKENS = 500


@pytest.fixture(scope="module")
def own_server(start_server: Any) -> Iterator[Any]:
    """Its engine may be killed."""
    with start_server("--dtype", "float32") as running:
        yield running


@pytest.fixture
def server_url(own_server: Any) -> str:
    return f"{own_server.url}/"


async def begin(page: Page, question: str, fields: dict[str, Any]) -> None:
    """Ask, with further fields of the request's body, and wait for the first text."""

    async def change(route: Route) -> None:
        await route.continue_(post_data=route.request.post_data_json | fields)

    await page.route("**/v1/chat/completions", change)
    await page.get_by_label("Message", exact=True).fill(question)
    await page.get_by_label("Message", exact=True).press("Enter")
    await expect(page.locator(".answer > .text").last).not_to_be_empty(timeout=60_000)


async def test_a_newcomer_chats_with_the_demo_model(browser_page: Page, own_server: Any) -> None:
    page = browser_page
    await expect(page.get_by_text("demo", exact=True).first).to_be_visible()
    box = page.get_by_role("textbox").first
    await box.fill("What is the capital of France?")
    await box.press("Enter")
    await expect(page.get_by_text("The capital of France is Paris.").first).to_be_visible(timeout=60_000)
    await expect(page.locator(".meta").last).to_contain_text("tokens/s", timeout=60_000)
    own_server.wait_idle()


async def test_stop_frees_the_request(browser_page: Page, own_server: Any, long_answer: dict[str, Any]) -> None:
    with own_server.cut_short():
        await begin(browser_page, "Tell me a story.", long_answer)
        await browser_page.get_by_role("button", name="Stop").click(timeout=60_000)
        await expect(browser_page.locator(".meta").last).to_have_text("stopped")


@pytest.mark.parametrize("how", ["reload", "crash"])
async def test_an_answer_survives(browser_page: Page, own_server: Any, how: str) -> None:
    """The very text that an undisturbed request gets. What disturbs this one comes at its first text."""
    page = browser_page
    question, fields = "Count from 1 to 90.", {"temperature": 0.7, "seed": 5, "max_tokens": TOKENS}
    undisturbed = own_server.client().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": question}], extra_body={"ignore_eos": True}, **fields
    )
    restarts = own_server.counted("penstock_engine_restarts_total")

    def disturb() -> None:
        if how == "crash":
            os.kill(own_server.engine_of(0), signal.SIGKILL)

    await page.expose_function("disturb", disturb)
    await page.evaluate(
        """(reload) => {
          const seen = new MutationObserver(() => {
            if (!document.querySelector(".answer > .text")?.textContent) return;
            seen.disconnect();
            reload ? location.reload() : disturb();
          });
          seen.observe(document.getElementById("conversation"), { childList: true, subtree: true });
        }""",
        how == "reload",
    )
    await begin(page, question, fields | {"ignore_eos": True})
    meta = page.locator(".meta").last
    await expect(meta).to_contain_text(f"{TOKENS} tokens", timeout=200_000)
    if how == "reload":
        await expect(meta).to_contain_text("resumed")
    else:
        assert own_server.counted("penstock_engine_restarts_total") == restarts + 1
    text = await page.evaluate(
        """async () => {
          const { store } = await import("/static/store.js");
          const [{ nodes }] = await store.all();
          return Object.values(nodes).find((node) => node.role === "assistant").content;
        }"""
    )
    assert text == undisturbed.choices[0].message.content


KEPT = """async () => {
  const { store } = await import("/static/store.js");
  const nodes = (await store.all()).flatMap((each) => Object.values(each.nodes));
  return nodes.some(({ stream, state }) => stream || state === "done");
}"""
"""Whether it is kept in the browser how to come back to an answer."""


async def test_answers_of_a_chat_that_is_not_shown_survive_a_reload(browser_page: Page, own_server: Any) -> None:
    page = browser_page
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Answers").fill("2")
    await page.get_by_role("button", name="Done").click()
    await begin(page, "Count from 1 to 20.", {"max_tokens": TOKENS, "ignore_eos": True})
    await page.wait_for_function(KEPT, timeout=60_000)
    await page.get_by_role("button", name="New chat").click()
    await page.reload()
    await page.get_by_role("button", name="Count from 1 to 20.", exact=True).click()
    for number in (1, 2):
        await expect(page.locator(".answer .branches")).to_contain_text(f"{number} / 2")
        await expect(page.locator(".meta")).to_contain_text(f"{2 * TOKENS} tokens in 2 answers", timeout=200_000)
        await expect(page.locator(".answer > .text")).not_to_be_empty()
        if number == 1:
            await page.get_by_role("button", name="Next version").click()
    own_server.wait_idle()
