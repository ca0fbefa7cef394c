"""The chat page in a real browser, against a server that says what each test tells it to (``conftest.FakeServer``)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from gateway.errors import InvalidRequest, RateLimited, Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

FIGURES = re.compile(r"first token \d+ ms · 5 tokens · [\d.]+ tokens/s")
MARKUP = "<img src=x onerror=\"alert('boo')\"><script>alert('boo')</script>\n<b>bold</b> &amp; [a](javascript:alert(1))"

KEY_IS_WHERE = """async () => {
  const { store } = await import("/static/store.js");
  const holding = (storage) => Object.keys(storage).filter((name) => storage[name].includes("sk-"));
  const kept = JSON.stringify(await store.all()).includes("sk-");
  return [holding(sessionStorage), holding(localStorage), document.cookie, kept];
}"""


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Message").fill(question)
    await page.get_by_label("Message").press("Enter")


def answer_of(page: Page) -> Any:
    return page.locator(".answer > .text").last


async def test_an_answer_is_shown_as_it_streams(browser_page: Page, fake: Any) -> None:
    async def script() -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n" + fake.chunk("Water ")
        await fake.wait_for_test()
        yield fake.chunk("flows\n  down.")
        await fake.wait_for_test()
        yield fake.ending(5)

    fake.then(script)
    await expect(browser_page.locator("#model")).to_have_text(fake.MODEL)
    await ask(browser_page, "How?")
    await expect(answer_of(browser_page)).to_have_text("Water")
    await expect(browser_page.get_by_role("button", name="Stop")).to_be_visible()
    fake.go_on.set()
    await expect(answer_of(browser_page)).to_have_text("Water flows down.")
    assert await answer_of(browser_page).text_content() == "Water flows\n  down."
    await expect(browser_page.locator(".meta")).to_have_text("")
    fake.go_on.set()
    await expect(browser_page.locator(".meta")).to_have_text(
        re.compile(r"first token \d+ ms · 5 tokens · [\d.]+ tokens/s")
    )
    await expect(browser_page.get_by_role("button", name="Send")).to_be_visible()
    await expect(browser_page.locator("#announcer")).to_have_text("Water flows down.")
    body = fake.bodies[0]
    assert body["model"] == fake.MODEL
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "How?"}]


async def test_reasoning_is_told_and_folded_away(browser_page: Page, fake: Any) -> None:
    async def script() -> AsyncIterator[bytes]:
        yield fake.chunk("Well, well.", member="reasoning_content")
        await fake.wait_for_test()
        yield fake.chunk("Yes.") + fake.ending(5)

    fake.then(script)
    await ask(browser_page, "How?")
    await expect(browser_page.locator(".meta")).to_have_text("reasoning …")
    fake.go_on.set()
    await expect(browser_page.locator(".meta")).to_have_text(FIGURES)
    await expect(answer_of(browser_page)).to_have_text("Yes.")
    thoughts = browser_page.get_by_text("Well, well.")
    await expect(thoughts).to_be_hidden()
    await browser_page.get_by_text("Reasoning", exact=True).click()
    await expect(thoughts).to_be_visible()


async def test_the_conversation_is_sent_along_until_a_new_one_begins(browser_page: Page, fake: Any) -> None:
    fake.then(
        fake.saying("Hello Ada."), InvalidRequest("No."), fake.saying("You are Ada."), fake.saying("I do not know.")
    )
    for question in ("I am Ada.", "refuse this", "Who am I?"):
        await ask(browser_page, question)
        await expect(browser_page.get_by_role("button", name="Send")).to_be_visible()
    await expect(answer_of(browser_page)).to_have_text("You are Ada.")
    assert [message["content"] for message in fake.bodies[2]["messages"]] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    await browser_page.get_by_role("button", name="New chat").click()
    await expect(browser_page.locator(".question")).to_have_count(0)
    await ask(browser_page, "Who am I?")
    await expect(answer_of(browser_page)).to_have_text("I do not know.")
    assert len(fake.bodies[3]["messages"]) == 1


@pytest.mark.parametrize("how", ["button", "escape", "delete"])
async def test_stopping_ends_the_request_at_the_server(browser_page: Page, fake: Any, how: str) -> None:
    fake.then(fake.saying("and so on " * 1000, pause=0.02), fake.saying("Fine."))
    await ask(browser_page, "Tell me everything")
    await expect(answer_of(browser_page)).to_contain_text("so on and")
    assert not fake.aborted.is_set()
    if how == "escape":
        await browser_page.keyboard.press("Escape")
    elif how == "button":
        await browser_page.get_by_role("button", name="Stop").click()
    else:
        for _ in range(2):
            await browser_page.get_by_role("button", name="Delete “Tell me everything”").click()
    assert await asyncio.to_thread(fake.aborted.wait, 60)
    if how != "delete":
        await expect(browser_page.locator(".meta")).to_have_text("stopped")
        await expect(answer_of(browser_page)).to_contain_text("and so on")
    await ask(browser_page, "Go on")
    await expect(answer_of(browser_page)).to_have_text("Fine.")
    await expect(browser_page.locator(".question")).to_have_count(1 if how == "delete" else 2)
    await expect(browser_page.locator(".entry")).to_have_count(1)


async def test_markup_from_the_model_stays_text(browser_page: Page, fake: Any) -> None:
    dialogs: list[str] = []
    browser_page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    fake.then(fake.saying(MARKUP), InvalidRequest(MARKUP))
    await ask(browser_page, MARKUP)
    await expect(browser_page.locator(".meta")).to_contain_text("tokens")
    assert await answer_of(browser_page).text_content() == MARKUP
    assert await browser_page.locator(".question .text").text_content() == MARKUP
    await expect(browser_page.locator(".entry").first).to_contain_text("<img src=x")
    await ask(browser_page, "And in an error?")
    await expect(browser_page.locator(".notice").last).to_contain_text("onerror")
    assert await browser_page.locator("#conversation :is(img, script, b, a)").count() == 0
    assert dialogs == []


async def test_the_browser_itself_refuses_injected_script(browser: Browser, server_url: str) -> None:
    page = await browser.new_page()  # unwatched: the browser logs what it refuses
    await page.goto(server_url)
    refused = await page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch (error) { return error.name } }"
    )
    assert refused == "TypeError"
    await page.close()


async def test_a_character_may_be_split_over_chunks(browser_page: Page, fake: Any) -> None:
    async def script() -> AsyncIterator[bytes]:
        for byte in fake.chunk("naïve 💧 水") + fake.ending(4).replace(b"\n", b"\r\n"):
            yield bytes([byte])

    fake.then(script)
    await ask(browser_page, "Bytes?")
    await expect(answer_of(browser_page)).to_have_text("naïve 💧 水")


async def test_the_parser_gives_the_same_events_wherever_the_bytes_are_cut(browser_page: Page) -> None:
    """Every line ending, comments, joined data, unknown fields, and each way to cut the bytes in two or in ones."""
    found = await browser_page.evaluate(
        r"""async () => {
          const { readEvents } = await import("/static/sse.js");
          const text = "\uFEFF: hello\r\ndata: a💧\r\ndata:b\r\n\r\ndata\n\nid: 7\nevent: error\rdata:  {}\r\r" +
            "retry: 5\n\n:\n\nevent: lost\n\nnonsense: 1\ndata: x: y\n\ndata: cut off";
          const bytes = new TextEncoder().encode(text);
          const read = async (pieces) => {
            const events = [];
            const body = new ReadableStream({ start(c) { pieces.forEach((p) => c.enqueue(p)); c.close(); } });
            for await (const event of readEvents(body)) events.push([event.type, event.data, event.id]);
            return JSON.stringify(events);
          };
          const results = new Set([await read([...bytes].map((b) => new Uint8Array([b])))]);
          for (let at = 0; at <= bytes.length; at++) results.add(await read([bytes.slice(0, at), bytes.slice(at)]));
          return [...results];
        }"""
    )
    assert len(found) == 1
    assert json.loads(found[0]) == [
        ["message", "a💧\nb", ""],
        ["message", "", ""],
        ["error", " {}", "7"],
        ["message", "x: y", "7"],
    ]


async def broken(fake: Any) -> AsyncIterator[bytes]:
    yield fake.chunk("Half an")
    await asyncio.sleep(0.05)
    raise ConnectionError("the engine has gone")


async def failing(fake: Any) -> AsyncIterator[bytes]:
    yield fake.chunk("Half an")
    error = {"message": "The engine died.", "type": "server_error", "param": None, "code": "internal_error"}
    yield b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


async def unfinished(fake: Any) -> AsyncIterator[bytes]:
    yield fake.chunk("Half an") + fake.DONE


async def senseless(fake: Any) -> AsyncIterator[bytes]:
    yield fake.chunk("Half an") + b"data: {oops\n\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (failing, "The engine died."),
        (broken, "The connection to the server was lost in the middle of the answer."),
        (unfinished, "The stream ended before the answer was complete."),
        (senseless, "The server sent something that is no chat completion."),
    ],
)
async def test_a_broken_answer_is_told_in_words_and_can_be_tried_again(
    browser_page: Page, fake: Any, script: Any, words: str
) -> None:
    fake.then(lambda: script(fake), fake.saying("Now it works."))
    await ask(browser_page, "Try")
    await expect(browser_page.locator(".notice")).to_contain_text(words)
    await expect(answer_of(browser_page)).to_have_text("Half an")
    await browser_page.get_by_role("button", name="Try again").click()
    await expect(answer_of(browser_page)).to_have_text("Now it works.")
    await expect(browser_page.locator(".notice")).to_be_hidden()
    assert fake.bodies[0]["messages"] == fake.bodies[1]["messages"]


async def test_a_refusal_is_told_in_the_servers_words(browser_page: Page, fake: Any) -> None:
    fake.then(InvalidRequest("This prompt has 900 tokens, and 512 fit.", code="context_length_exceeded"))
    await ask(browser_page, "Too long")
    notice = browser_page.locator(".notice")
    await expect(notice).to_contain_text("This prompt has 900 tokens, and 512 fit.")
    await expect(notice).to_contain_text("Begin a new chat, or ask for less. Request req-7")


async def test_a_server_that_goes_away_is_noticed_and_found_again(browser_page: Page, fake: Any) -> None:
    await expect(browser_page.locator("#model")).to_have_text(fake.MODEL)
    await browser_page.context.set_offline(True)
    await ask(browser_page, "Anyone?")
    await expect(browser_page.locator(".notice")).to_contain_text("The server cannot be reached.")
    await expect(browser_page.locator("#model")).to_have_text("No connection to the server")
    await browser_page.context.set_offline(False)
    await expect(browser_page.locator("#model")).to_have_text(fake.MODEL)


async def test_the_header_says_whether_the_model_is_up(open_page: Any, fake: Any) -> None:
    fake.not_ready = "the engine is starting"
    async with open_page() as page:
        await expect(page.locator("#model")).to_have_text("The model is still loading")
        fake.not_ready = "the server is shutting down"
        await expect(page.locator("#model")).to_have_text("The server is not ready")
        fake.not_ready = None
        await expect(page.locator("#model")).to_have_text(fake.MODEL)


async def test_waiting_for_a_busy_server_can_be_stopped(browser_page: Page, fake: Any) -> None:
    fake.then(RateLimited("The queue is full.", retry_after=60))
    await ask(browser_page, "Now?")
    await expect(browser_page.locator(".notice")).to_contain_text("The server is busy. Trying again in 60 s.")
    await expect(browser_page.locator(".notice")).to_contain_text("The queue is full.")
    await browser_page.get_by_role("button", name="Stop").click()
    await expect(browser_page.locator(".meta")).to_have_text("stopped")
    await expect(browser_page.locator(".notice")).to_be_hidden()


async def test_a_loading_model_and_a_busy_server_are_waited_for(browser_page: Page, fake: Any) -> None:
    starting = "The engine is starting; try again shortly."
    fake.then(
        Unavailable(starting, retry_after=0.2),
        Unavailable(starting, retry_after=3),  # Long enough for an expectation that looks once a second.
        fake.saying("Loaded."),
        RateLimited("The queue is full.", retry_after=3),
        fake.saying("Yes."),
    )
    await ask(browser_page, "Hello?")
    notice = browser_page.locator(".notice")
    await expect(notice).to_contain_text(re.compile(r"The model is still loading\. Trying again in [123] s\."))
    await expect(answer_of(browser_page)).to_have_text("Loaded.")
    await expect(notice).to_be_hidden()
    await ask(browser_page, "Again?")
    await expect(notice.last).to_contain_text(re.compile(r"The server is busy\. Trying again in [123] s\."))
    await expect(answer_of(browser_page)).to_have_text("Yes.")


async def test_an_answer_cut_at_the_limit_says_so(browser_page: Page, fake: Any) -> None:
    fake.then(fake.saying("One two", finish="length"))
    await ask(browser_page, "Count")
    await expect(browser_page.locator(".notice")).to_contain_text("cut off at the length limit")


async def test_an_api_key_is_asked_for_and_kept_in_the_tab_only(open_page: Any, fake: Any) -> None:
    fake.key = "sk-right"
    fake.then(fake.saying("Come in."))
    async with open_page() as page:
        dialog = page.get_by_role("dialog", name="API key")
        await expect(dialog).to_contain_text("answers only with an API key")
        await dialog.get_by_label("Key", exact=True).fill("sk-wrong")
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("did not accept this key")
        await page.keyboard.press("Escape")
        await expect(page.locator("#model")).to_have_text("API key needed")
        await ask(page, "May I?")
        await dialog.get_by_label("Key", exact=True).fill("sk-right")
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(answer_of(page)).to_have_text("Come in.")
        await expect(page.locator("#model")).to_have_text(fake.MODEL)
        assert await page.evaluate(KEY_IS_WHERE) == [["penstock-api-key"], [], "", False]
        await page.reload()
        await expect(page.locator("#model")).to_have_text(fake.MODEL)
        await page.get_by_role("button", name="API key").click()
        await dialog.get_by_role("button", name="Forget it").click()
        await expect(dialog).to_contain_text("answers only with an API key")
        assert (await page.evaluate(KEY_IS_WHERE))[0] == []


async def test_the_keyboard_is_enough(browser_page: Page, fake: Any) -> None:
    fake.then(fake.saying("Done."))
    prompt = browser_page.get_by_label("Message")
    await expect(prompt).to_be_focused()
    await browser_page.keyboard.press("Enter")
    await browser_page.keyboard.type("one")
    await browser_page.keyboard.press("Shift+Enter")
    await browser_page.keyboard.type("two")
    await expect(prompt).to_have_value("one\ntwo")
    await browser_page.keyboard.press("Enter")
    await expect(answer_of(browser_page)).to_have_text("Done.")
    assert [body["messages"][0]["content"] for body in fake.bodies] == ["one\ntwo"]
    await expect(prompt).to_be_focused()
    await expect(prompt).to_have_value("")


async def test_examples_are_asked_with_one_click(browser_page: Page, fake: Any) -> None:
    examples = await browser_page.locator("#examples button").all_text_contents()
    assert len(examples) == 6
    fake.then(*[fake.saying("42") for _ in examples])
    for example in examples:
        await browser_page.get_by_role("button", name=example).click()
        await expect(browser_page.get_by_role("button", name="Send")).to_be_visible()
        await browser_page.get_by_role("button", name="New chat").click()
    assert [body["messages"][0]["content"] for body in fake.bodies] == examples


async def test_the_page_follows_the_text_only_from_the_bottom(browser_page: Page, fake: Any) -> None:
    def lines(start: int) -> str:
        return "".join(f"line {number}\n" for number in range(start, start + 80))

    async def script() -> AsyncIterator[bytes]:
        yield fake.chunk(lines(0))
        await fake.wait_for_test()
        yield fake.chunk(lines(80))
        await fake.wait_for_test()
        yield fake.chunk(lines(160)) + fake.ending(240)

    fake.then(script)
    scroller = "document.getElementById('scroller')"
    below = f"{scroller}.scrollHeight - {scroller}.scrollTop - {scroller}.clientHeight"
    await ask(browser_page, "Lines")
    await expect(answer_of(browser_page)).to_contain_text("line 79")
    assert await browser_page.evaluate(below) < 2
    await browser_page.evaluate(f"{scroller}.scrollTop -= 400")
    await expect(browser_page.get_by_role("button", name="Scroll to the latest text")).to_be_visible()
    top = await browser_page.evaluate(f"{scroller}.scrollTop")
    fake.go_on.set()
    await expect(answer_of(browser_page)).to_contain_text("line 159")
    assert await browser_page.evaluate(f"{scroller}.scrollTop") == top
    await browser_page.get_by_role("button", name="Scroll to the latest text").click()
    fake.go_on.set()
    await expect(browser_page.locator(".meta")).to_contain_text("240 tokens")
    assert await browser_page.evaluate(below) < 2
    await expect(browser_page.get_by_role("button", name="Scroll to the latest text")).to_be_hidden()
