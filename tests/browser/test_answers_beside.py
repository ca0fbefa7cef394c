"""Answers that go on in a chat that is not shown, several answers to one question, and how much the model reasons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Message", exact=True).fill(question)
    await page.get_by_label("Message", exact=True).press("Enter")


async def set_answers(page: Page, count: str) -> None:
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Answers").fill(count)
    await page.get_by_role("button", name="Done").click()


def answer_of(page: Page) -> Any:
    return page.locator(".answer > .text").last


async def test_an_answer_goes_on_in_a_chat_that_is_not_shown(browser_page: Page, fake: Any) -> None:
    page = browser_page

    async def script() -> AsyncIterator[bytes]:
        yield fake.chunk("First ")
        await fake.wait_for_test()
        yield fake.chunk("second ")
        await fake.wait_for_test()
        yield fake.chunk("third.") + fake.ending(3)

    fake.then(script, fake.saying("Meanwhile."))
    await ask(page, "Slow?")
    await expect(answer_of(page)).to_have_text("First")
    await page.get_by_role("button", name="New chat").click()
    await ask(page, "Quick?")
    await expect(answer_of(page)).to_have_text("Meanwhile.")
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    running = page.get_by_role("img", name="Being answered")
    await expect(page.locator("#conversations li").filter(has=running)).to_contain_text("Slow?")
    fake.go_on.set()
    await page.get_by_role("button", name="Slow?", exact=True).click()
    await expect(answer_of(page)).to_have_text("First second")
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    await expect(page.get_by_role("button", name="Regenerate")).to_be_hidden()
    await page.get_by_role("button", name="Quick?", exact=True).click()
    await expect(answer_of(page)).to_have_text("Meanwhile.")
    fake.go_on.set()
    await expect(running).to_have_count(0)
    assert not fake.aborted.is_set()
    await page.get_by_role("button", name="Slow?", exact=True).click()
    await expect(answer_of(page)).to_have_text("First second third.")
    await expect(page.locator(".meta")).to_contain_text("3 tokens")
    await expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


async def test_several_answers_are_versions_beside_each_other(browser_page: Page, fake: Any) -> None:
    page = browser_page

    async def script() -> AsyncIterator[bytes]:
        for index, text in enumerate(("Red ", "Green ", "Blue ")):
            yield fake.chunk(text, index=index)
        await fake.wait_for_test()
        for index, text in enumerate(("rose.", "leaf.", "sky.")):
            yield fake.chunk(text, index=index)
        yield fake.ending(6, answers=3)

    fake.then(script, fake.saying("So it is."))
    await set_answers(page, "3")
    await ask(page, "Colours?")
    await expect(answer_of(page)).to_have_text("Red")
    await page.get_by_role("button", name="Next version").click()
    await expect(answer_of(page)).to_have_text("Green")
    fake.go_on.set()
    await expect(answer_of(page)).to_have_text("Green leaf.")
    await expect(page.locator(".meta")).to_contain_text("6 tokens in 3 answers")
    await page.get_by_role("button", name="Next version").click()
    await expect(answer_of(page)).to_have_text("Blue sky.")
    await expect(page.locator(".answer .branches")).to_contain_text("3 / 3")
    await set_answers(page, "")
    await ask(page, "Why?")
    await expect(answer_of(page)).to_have_text("So it is.")
    assert [body.get("n") for body in fake.bodies] == [3, None]
    assert [each["content"] for each in fake.bodies[1]["messages"]] == ["Colours?", "Blue sky.", "Why?"]


async def test_several_answers_that_failed_are_asked_for_again_together(browser_page: Page, fake: Any) -> None:
    page = browser_page

    async def one_is_missing() -> AsyncIterator[bytes]:
        yield fake.chunk("Half", index=1) + fake.chunk(finish="stop", index=0) + fake.DONE

    async def both() -> AsyncIterator[bytes]:
        yield fake.chunk("Heads.", index=0) + fake.chunk("Tails.", index=1) + fake.ending(2, "length", answers=2)

    fake.then(one_is_missing, both)
    for wrong in ("0", "65", "two"):
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("Answers").fill(wrong)
        await expect(page.get_by_role("alert")).to_have_text("Ask for 1 to 64 answers.")
        await page.get_by_role("button", name="Close the settings").click()
    await set_answers(page, "2")
    await ask(page, "Which?")
    await expect(page.locator(".notice")).to_contain_text("The stream ended before the answer was complete.")
    await page.get_by_role("button", name="Try again").click()
    await expect(answer_of(page)).to_have_text("Heads.")
    await expect(page.locator(".notice")).to_contain_text("cut off at the length limit")
    await page.get_by_role("button", name="Next version").click()
    await expect(answer_of(page)).to_have_text("Tails.")
    await expect(page.locator(".answer .branches")).to_contain_text("2 / 2")
    assert [body["n"] for body in fake.bodies] == [2, 2]


async def test_how_much_to_reason_is_offered_where_the_model_knows_it(open_page: Any, fake: Any) -> None:
    fake.then(fake.saying("Plain."), fake.saying("Deep."))
    async with open_page() as page:
        await page.get_by_role("button", name="Settings").click()
        await expect(page.get_by_label("Temperature")).to_be_visible()
        await expect(page.get_by_label("Reasoning effort")).to_be_hidden()
        await page.get_by_role("button", name="Done").click()
        await ask(page, "Now?")
        await expect(answer_of(page)).to_have_text("Plain.")
        fake.efforts = ["low", "high"]
        await page.reload()
        await expect(page.locator("#model")).to_have_text(fake.MODEL)
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("Reasoning effort").select_option("high")
        await page.get_by_role("button", name="Done").click()
        await ask(page, "And now?")
        await expect(answer_of(page)).to_have_text("Deep.")
    assert [body.get("reasoning_effort") for body in fake.bodies] == [None, "high"]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
async def test_it_looks_right(
    open_page: Any, fake: Any, poor_contrast: str, tmp_path: Path, width: int, scheme: str
) -> None:
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    fake.efforts = ["low", "medium", "high"]

    async def check(page: Page, name: str) -> None:
        await page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png")
        assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await page.evaluate(poor_contrast) == []

    async def script() -> AsyncIterator[bytes]:
        yield fake.chunk("A sluice lets ") + fake.chunk("A gate holds ", index=1)
        await fake.wait_for_test()
        yield fake.chunk("water through.") + fake.chunk("water back.", index=1) + fake.ending(7, answers=2)

    fake.then(script, fake.saying("Concrete, mostly."))
    async with open_page(viewport={"width": width, "height": 844}, color_scheme=scheme, **phone) as page:
        await expect(page.locator("#model")).to_have_text(fake.MODEL)
        await set_answers(page, "2")
        await page.get_by_role("button", name="Settings").click()
        await expect(page.get_by_label("Reasoning effort")).to_be_visible()
        await check(page, "settings")
        await page.get_by_role("button", name="Close the settings").click()
        await ask(page, "What is a sluice?")
        await expect(answer_of(page)).to_have_text("A sluice lets")
        if phone:
            await page.get_by_role("button", name="Open the list of chats").click()
        await page.get_by_role("button", name="New chat").click()
        await set_answers(page, "")
        await ask(page, "What are dams made of?")
        await expect(page.locator(".meta")).to_contain_text("tokens/s")
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        if phone:
            await page.get_by_role("button", name="Open the list of chats").click()
        await expect(page.get_by_role("img", name="Being answered")).to_have_count(1)
        await check(page, "running")
        await page.get_by_role("button", name="What is a sluice?", exact=True).click()
        fake.go_on.set()
        await expect(page.locator(".meta")).to_contain_text("7 tokens in 2 answers")
        await check(page, "versions")
