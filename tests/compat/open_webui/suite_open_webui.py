"""Open WebUI, as published, in front of a running Penstock: a person opens it in a browser and chats.

It leaves ``open-webui.png`` where it runs: how the page looks in the end, for people.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

LIMIT = 240.0
"""Seconds for its start: it makes its database, and imports much."""
expect.set_options(timeout=120_000)

# It would send ten thousand tokens of tools of its own along with each question; the demo model's context is 2,048.
WITHOUT_ITS_TOOLS = '{"capabilities": {"builtin_tools": false}}'

SEEN = """() => {
  window.seen = new Set();
  new MutationObserver(() => {
    const answers = document.querySelectorAll(".chat-assistant");
    if (answers.length) window.seen.add(answers[answers.length - 1].textContent.trim().length);
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""
"""How long the last answer was, each time that the page changed."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where Open WebUI is, with the settings that its documentation has for a server of OpenAI's API."""
    folder = tmp_path_factory.mktemp("open-webui")
    settings = {
        "OPENAI_API_BASE_URL": os.environ["OPENAI_BASE_URL"],
        "OPENAI_API_KEY": "none",
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "for this test",
        "ENABLE_OLLAMA_API": "False",
        "OFFLINE_MODE": "True",
        "RAG_EMBEDDING_ENGINE": "openai",
        "DEFAULT_MODEL_METADATA": WITHOUT_ITS_TOOLS,
        "DATA_DIR": str(folder / "data"),
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = folder / "log"
    command = [str(Path(sys.executable).parent / "open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=settings, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(f"{url}/health", process, log)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LIMIT
    while True:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-4000:]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    executable = shutil.which("chromium")
    assert executable, "chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--disable-gpu"], chromium_sandbox=False)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_text("Okay, Let's Go!").click()
        yield page
        page.screenshot(path="open-webui.png")
        browser.close()


def ask(page: Page, question: str) -> None:
    page.locator("#chat-input").click()
    page.keyboard.type(question)
    page.keyboard.press("Enter")


def answer(page: Page) -> Locator:
    return page.locator(".chat-assistant").last


def test_the_model_is_found_and_answers(page: Page) -> None:
    expect(page.get_by_label("Selected model: demo")).to_be_visible()
    ask(page, "What is the capital of France?")
    expect(answer(page)).to_contain_text("The capital of France is Paris.")


def test_the_next_question_has_the_conversation_with_it(page: Page) -> None:
    ask(page, "My name is Ada.")
    expect(page.locator(".chat-assistant")).to_have_count(2)
    expect(answer(page)).to_contain_text("Ada")
    ask(page, "What is my name?")
    expect(page.locator(".chat-assistant")).to_have_count(3)
    expect(answer(page)).to_contain_text("Ada")


def test_an_answer_grows_as_it_is_generated(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator(".chat-assistant")).to_have_count(0)
    page.evaluate(SEEN)
    ask(page, "Tell me a short story.")
    expect(answer(page)).to_contain_text(re.compile(r"(\w+\W+){30}"))
    assert page.evaluate("window.seen.size") > 3
