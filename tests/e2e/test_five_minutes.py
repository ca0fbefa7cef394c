"""docs/start.md: every command is run, in order, and prints what the page shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a busy machine is no failure

PAGE = (Path(__file__).parents[2] / "docs/start.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = {"bash": ["bash", "-euc"], "python": [sys.executable, "-c"]}


def wait_for_the_loss(server: Any) -> None:
    """The engine is dead, but nobody may have looked yet, where the stream was complete before."""
    end = time.monotonic() + 60
    while server.counted("penstock_engine_losses_total", cause="signal") < 1:
        assert time.monotonic() < end, "nobody noticed"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def outputs(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each command of the page printed, in its order, on a server of their own."""
    folder = tmp_path_factory.mktemp("start")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with start_server() as server:
        changes = {
            "http://127.0.0.1:8000": server.url,
            "penstock chat": f"penstock chat --url {server.url}",
            "max_tokens=1900": "max_tokens=500",  # it is the same in less time
            # Other servers of this machine have engines of that name.
            "pkill -9 penstock-e0": f"kill -9 {server.engine_of(0)}",
        }
        printed = {}
        for language, text in BLOCKS:
            if language in COMMANDS:
                if "losses_total" in text:
                    wait_for_the_loss(server)
                command = text
                for old, new in changes.items():
                    command = command.replace(old, new)
                done = subprocess.run(
                    [*COMMANDS[language], command],
                    cwd=folder,
                    env=os.environ | {"PATH": path},
                    capture_output=True,
                    text=True,
                    timeout=240,
                    check=False,
                )
                assert done.returncode == 0, f"{command}\n{done.stderr}"
                printed[text] = done.stdout
        yield printed


def test_each_command_prints_what_the_page_shows(outputs: dict[str, str]) -> None:
    shown = [text for language, text in BLOCKS if not language]
    printed = [text for command, text in outputs.items() if "chat/completions -H" not in command]
    assert len(printed) == 4
    assert [text for text in printed if text not in shown] == []


def test_the_answer_to_curl_has_what_the_page_shows(outputs: dict[str, str]) -> None:
    (shown,) = [json.loads(text) for language, text in BLOCKS if language == "json"]
    (answer,) = [json.loads(text) for command, text in outputs.items() if "chat/completions -H" in command]
    assert answer.keys() - shown.keys() == {"usage"}
    of_one_run = {"id", "created", "system_fingerprint"}
    assert {name: answer[name] for name in shown.keys() - of_one_run} == {
        name: shown[name] for name in shown.keys() - of_one_run
    }
