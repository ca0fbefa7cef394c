"""What the chat page offers beyond question and answer, against the scripted server of ``conftest``."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MARKDOWN = """# Water

Some *soft*, **bold**, ~~old~~ and `code` with a_b_c, 2 * 3 * 4 and [a link](https://example.com/a_b?x=1).

1. one
2. two
   - inner **deep**

> quoted

| a | b |
|---|:-:|
| 1 | `x` |

```python
print("<b>")  # *not* emphasis
```
after"""

HOSTILE = (
    "[x](javascript:alert(1)) [y]( JAVASCRIPT:alert(1)) ![i](https://evil.example/p.png) <script>alert(1)</script>\n"
    "[z](data:text/html,<script>alert(1)</script>) <a href=https://evil.example>\n\n"
    '<iframe srcdoc="<script>alert(1)</script>"></iframe>\n\n```html\n</code></pre><img src=x onerror=alert(1)>\n```'
)


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Message", exact=True).fill(question)
    await page.get_by_label("Message", exact=True).press("Enter")


async def answered(page: Page, text: str) -> None:
    await expect(page.locator(".answer > .text").last).to_have_text(text)
    await expect(page.get_by_role("button", name="Send")).to_be_visible()


async def test_markdown_is_drawn_the_same_however_it_streams(browser_page: Page, fake: Any) -> None:
    async def script() -> AsyncIterator[bytes]:
        for character in MARKDOWN:
            yield fake.chunk(character)
        yield fake.ending(len(MARKDOWN))

    fake.then(script)
    await ask(browser_page, "Write")
    await expect(browser_page.locator(".meta")).to_contain_text("tokens/s")
    body = browser_page.locator(".answer > .text")
    drawn = await body.inner_html()
    for part in (
        "<h4>Water</h4>",
        "<em>soft</em>, <strong>bold</strong>, <s>old</s> and <code>code</code> with a_b_c, 2 * 3 * 4",
        '<a href="https://example.com/a_b?x=1" target="_blank" rel="noopener noreferrer nofollow">a link</a>',
        "<ol><li>one</li><li>two<ul><li>inner <strong>deep</strong></li></ul></li></ol>",
        "<blockquote><p>quoted</p></blockquote>",
        "<th>a</th><th>b</th>",
        "<td>1</td><td><code>x</code></td>",
        '<code>print("&lt;b&gt;")  # *not* emphasis</code>',
        "<p>after</p>",
    ):
        assert part in drawn, part
    fake.then(fake.saying(MARKDOWN, pause=0))
    await ask(browser_page, "Once more")
    await expect(browser_page.locator(".meta").last).to_contain_text("tokens/s")
    assert await body.last.inner_html() == drawn


async def test_hostile_markdown_becomes_text(browser_page: Page, fake: Any) -> None:
    dialogs: list[str] = []
    browser_page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    fake.then(fake.saying(HOSTILE))
    await ask(browser_page, "Attack")
    await expect(browser_page.locator(".meta")).to_contain_text("tokens/s")
    links = await browser_page.locator("#conversation a").evaluate_all("all => all.map((a) => a.href)")
    assert all(link.startswith("https://evil.example") for link in links)
    assert await browser_page.locator("#conversation :is(img, script, iframe, object, style, base)").count() == 0
    await expect(browser_page.locator(".answer pre")).to_have_text("</code></pre><img src=x onerror=alert(1)>")
    assert dialogs == []


async def test_no_input_makes_the_renderer_slow(browser_page: Page) -> None:
    """Each of these is 100,000 characters, and would take minutes in quadratic time."""
    milliseconds = await browser_page.evaluate(
        """async () => {
          const { blocksOf, nodeOf } = await import("/static/markdown.js");
          const units = ["*a ", "**", "_a", "`", "``a", "[", "[a](", "> ", "- ", "# ", "|-", "http://%", "~~~ "];
          const start = performance.now();
          for (const unit of units) {
            for (const end of ["", "\\n", "x`"]) {
              blocksOf(unit.repeat(100000 / unit.length) + end).forEach((block) => nodeOf(block, () => {}));
            }
          }
          return performance.now() - start;
        }"""
    )
    assert milliseconds < 240_000


async def test_questions_and_answers_have_versions(browser_page: Page, fake: Any) -> None:
    page = browser_page
    fake.then(fake.saying("One."), fake.saying("Two."), fake.saying("Other."))
    await ask(page, "First?")
    await answered(page, "One.")
    await page.get_by_role("button", name="Regenerate").click()
    await answered(page, "Two.")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    assert fake.bodies[0]["messages"] == fake.bodies[1]["messages"]
    await page.get_by_role("button", name="Previous version").click()
    await answered(page, "One.")
    await expect(page.locator(".answer .branches")).to_contain_text("1 / 2")
    await expect(page.get_by_role("button", name="Next version")).to_be_focused()  # there is no previous one any more
    await page.locator(".question").hover()
    await page.get_by_role("button", name="Edit").click()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Edit")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.get_by_label("Edit the message").fill("Second?")
    await page.keyboard.press("Enter")
    await answered(page, "Other.")
    assert fake.bodies[2]["messages"] == [{"role": "user", "content": "Second?"}]
    await page.get_by_role("button", name="Previous version").click()
    await answered(page, "One.")
    await expect(page.locator(".question > .text")).to_have_text("First?")


async def test_settings_are_sent_and_mistakes_are_told(browser_page: Page, fake: Any) -> None:
    page = browser_page
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("System prompt").fill("Be brief.")
    await page.get_by_label("Temperature").fill("warm")
    await expect(page.get_by_role("alert")).to_have_text("“warm” is not a number.")
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_label("Top k").fill("7")
    await page.get_by_label("Stop strings, one a line").fill("END\nFIN")
    await page.get_by_label("Format").select_option("json_schema")
    await expect(page.get_by_role("alert")).to_contain_text("Write the schema")
    await page.get_by_role("button", name="Done").click()
    wrong = page.get_by_label("JSON Schema")
    await expect(wrong).to_be_focused()
    await expect(wrong).to_have_accessible_description(re.compile("Write the schema"))
    await expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)
    await page.get_by_label("JSON Schema").fill('{"type": "object"}')
    await page.get_by_label("Functions, as JSON").fill('{"name": "now"}')
    await expect(page.get_by_role("alert")).to_be_hidden()
    await page.get_by_role("button", name="Done").click()
    fake.then(fake.saying("{}"))
    await ask(page, "Go")
    await answered(page, "{}")
    body = fake.bodies[0]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go"}]
    assert (body["temperature"], body["top_k"], body["stop"]) == (0, 7, ["END", "FIN"])
    assert body["tools"] == [{"type": "function", "function": {"name": "now"}}]
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert "top_p" not in body and "logprobs" not in body


async def test_calls_of_tools_are_shown_and_answered(browser_page: Page, fake: Any) -> None:
    page = browser_page

    def part(**function: str) -> bytes:
        call = {"index": 0, "function": function} | ({"id": "call_1", "type": "function"} if "name" in function else {})
        delta = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
        return b"data: " + json.dumps(delta).encode() + b"\n\n"

    async def script() -> AsyncIterator[bytes]:
        yield part(name="weather", arguments="")
        yield part(arguments='{"city": ')
        yield part(arguments='"Paris"}')
        yield fake.ending(9, "tool_calls")

    fake.then(script, fake.saying("Sunny."))
    await ask(page, "Weather?")
    await expect(page.locator(".call")).to_contain_text('"city": "Paris"')
    await page.get_by_label("What weather gives").fill("25 degrees")
    await page.get_by_role("button", name="Send the results").click()
    await answered(page, "Sunny.")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    assert fake.bodies[1]["messages"] == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "25 degrees"},
    ]


async def test_tokens_show_their_probability_and_their_alternatives(browser_page: Page, fake: Any) -> None:
    page = browser_page

    async def script() -> AsyncIterator[bytes]:
        for token, logprob in (("Sure", -0.01), (" thing", -2.0)):
            top = [{"token": token, "logprob": logprob}, {"token": " <i>", "logprob": -3.0}]
            entry = {"token": token, "logprob": logprob, "top_logprobs": top}
            choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [entry]}, "finish_reason": None}
            yield b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        yield fake.ending(2)

    fake.then(script)
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Token probabilities").check()
    await page.get_by_role("button", name="Done").click()
    await ask(page, "Sure?")
    await page.get_by_role("button", name="Tokens").click()
    assert (fake.bodies[0]["logprobs"], fake.bodies[0]["top_logprobs"]) == (True, 5)
    shades = await page.locator(".token").evaluate_all("all => all.map((t) => t.style.getPropertyValue('--doubt'))")
    assert shades == ["1%", "86%"]
    await page.locator(".token").last.hover()
    await expect(page.locator(".alternatives")).to_contain_text("␣thing14 %")
    await expect(page.locator(".alternatives")).to_contain_text("␣<i>5.0 %")
    await page.get_by_role("button", name="Tokens").click()
    await answered(page, "Sure thing")


async def test_conversations_are_kept_and_travel_as_a_file(browser_page: Page, fake: Any, tmp_path: Path) -> None:
    page = browser_page
    fake.then(fake.saying("A red one."), fake.saying("A blue one."))
    await ask(page, "Red?")
    await answered(page, "A red one.")
    await page.get_by_role("button", name="New chat").click()
    await ask(page, "Blue?")
    await answered(page, "A blue one.")
    entries = page.locator(".entry")
    await expect(entries).to_have_text(["Blue?", "Red?"])
    await page.reload()
    await answered(page, "A blue one.")
    async with page.expect_download() as waiting:
        await page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    await (await waiting.value).save_as(file)
    assert len(json.loads(file.read_text())["conversations"]) == 2
    for name in ("Blue?", "Red?"):
        await page.get_by_role("button", name=f"Delete “{name}”").click()
        await page.get_by_role("button", name=f"Delete “{name}”").click()
        await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    await expect(page.get_by_text("Your chats will be listed here.")).to_be_visible()
    await page.locator("#import-file").set_input_files(file)
    await expect(entries).to_have_text(["Blue?", "Red?"])
    await page.get_by_role("button", name="Red?", exact=True).click()
    await answered(page, "A red one.")
    broken = json.loads(file.read_text())
    broken["conversations"][0]["nodes"]["m1"] = None
    other = tmp_path / "broken.json"
    other.write_text(json.dumps(broken))
    await page.locator("#import-file").set_input_files(other)
    await expect(page.locator("#library-note")).to_have_text("A conversation in this file is damaged.")


@pytest.mark.parametrize("kind", ["curl", "Python"])
async def test_a_request_is_copied_without_the_key(open_page: Any, fake: Any, kind: str) -> None:
    fake.key = "sk-secret"
    fake.then(fake.saying("It's 1."))
    async with open_page(permissions=["clipboard-read", "clipboard-write"]) as page:
        await page.get_by_role("dialog").get_by_label("Key", exact=True).fill("sk-secret")
        await page.get_by_role("button", name="Use this key").click()
        await ask(page, "What's 1?")
        await answered(page, "It's 1.")
        await page.get_by_role("button", name=f"Copy the request for {kind}").click()
        await expect(page.get_by_text("Copied")).to_be_visible()
        text = await page.evaluate("navigator.clipboard.readText()")
    assert "PENSTOCK_API_KEY" in text and "sk-secret" not in text
    if kind == "Python":
        compile(text, "example", "exec")
        assert '"content": "What\'s 1?"' in text
    else:
        assert "What'\\''s 1?" in text
