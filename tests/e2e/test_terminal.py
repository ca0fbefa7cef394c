"""The commands of the terminal against the real server: through a pty where a terminal matters."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PENSTOCK = str(Path(sys.executable).parent / "penstock")
PATIENCE = 60.0

pytestmark = pytest.mark.slow


def penstock(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([PENSTOCK, *arguments], input=stdin, text=True, capture_output=True, timeout=PATIENCE)


class Terminal:
    """A command on a pty of its own: what it has written, and keys for it."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self._master = pty.fork()
        if not self.pid:
            os.environ |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
            os.execv(PENSTOCK, [PENSTOCK, *arguments])
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, is_there: Callable[[str], Any]) -> None:
        """Waits for something in what is written from now on, then forgets that."""
        end = time.monotonic() + PATIENCE
        while not is_there(self.text):
            assert time.monotonic() < end, self.text
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._master, 65536).decode(errors="replace")
                except OSError:  # a pty's way to say that it is over
                    assert is_there(self.text), self.text
                    return
        self.text = ""

    def end(self) -> int:
        """The exit status; kills what does not leave."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    os.read(self._master, 65536)
                except OSError:
                    break
        else:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._master)
        return os.waitstatus_to_exitcode(status)


def test_chat_in_a_terminal(server: Any, long_answer: dict[str, Any]) -> None:
    fields = [f"--set={name}={json.dumps(value)}" for name, value in long_answer.items() if name != "n"]
    terminal = Terminal("chat", "--url", server.url, "--set", "temperature=0")
    terminal.until(lambda text: "/help lists commands" in text and "> " in text)
    terminal.type("What is the capital\\\r")
    terminal.until(lambda text: "… " in text)
    terminal.type("of France?\r")
    terminal.until(lambda text: re.search(r"Paris[^>]*tokens/s[^>]*> ", text, re.DOTALL))
    terminal.type("/nonsense\r")
    terminal.until(lambda text: "there is no /nonsense" in text and "> " in text)
    terminal.type("\x04")
    assert terminal.end() == 0
    aborted = server.counted("penstock_requests_total", finish_reason="abort")
    terminal = Terminal("chat", "--url", server.url, *fields)
    terminal.until(lambda text: "> " in text)
    terminal.type("Tell me a story.\r")
    terminal.until(lambda text: len(text.split("story.")[-1]) > 20)
    terminal.type("\x03")
    terminal.until(lambda text: "> " in text.split("stopped" if "stopped" in text else "tokens/s")[-1])
    terminal.type("/exit\r")
    assert terminal.end() == 0
    server.wait_idle()
    assert server.counted("penstock_requests_total", finish_reason="abort") >= aborted


def test_chat_without_a_terminal(server: Any) -> None:
    asked = penstock("chat", "--url", server.url, "--set", "temperature=0", stdin="What is the capital of France?\n")
    assert asked.returncode == 0
    assert asked.stdout == "The capital of France is Paris.\n"
    assert "tokens/s" in asked.stderr
    given = penstock("chat", "What is the capital of France?", "--url", server.url + "/v1", "--set", "temperature=0")
    assert given.stdout == asked.stdout


def test_top(server: Any) -> None:
    once = penstock("top", "--url", server.url, "--once", "--interval", "0.2")
    assert once.returncode == 0
    for part in ("demo", "ready", "tokens generated", "time to first token", "blocks in use"):
        assert part in once.stdout
    terminal = Terminal("top", "--url", server.url, "--interval", "0.2")
    terminal.until(lambda text: "blocks in use" in text)
    terminal.until(lambda text: "blocks in use" in text)
    terminal.type("\x03")
    assert terminal.end() == 0


def test_bench(server: Any) -> None:
    options = [
        "--requests",
        "6",
        "--concurrency",
        "3",
        "--prompt-tokens",
        "32",
        "--output-tokens",
        "8-12",
        "--seed",
        "1",
    ]
    table = penstock("bench", "--url", server.url, *options, "--slo", "e2e=600000")
    assert table.returncode == 0, table.stderr
    assert table.stdout.startswith("6 requests, 0 failed\n")
    assert re.search(r"within the limits\s+100%", table.stdout)
    assert re.search(r"time to first token(\s+[\d,.]+){4}", table.stdout)
    result = json.loads(penstock("bench", "--url", server.url, *options, "--rate", "50", "--json").stdout)
    assert (result["requests"], result["failed"], result["prompt_tokens"]) == (6, 0, 6 * 32)
    refused = penstock("bench", "--url", server.url, "--prompt-tokens", "9999", "--requests", "2")
    assert refused.returncode == 1 and "2 failed" in refused.stdout


@pytest.mark.parametrize("command", [["chat", "Hi"], ["top", "--once"], ["bench"]])
def test_no_server_is_one_line(command: list[str]) -> None:
    answer = penstock(*command, "--url", "http://127.0.0.1:9")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert re.fullmatch(r"penstock: error: no server at http://127\.0\.0\.1:9: [^\n]+\n", answer.stderr)
