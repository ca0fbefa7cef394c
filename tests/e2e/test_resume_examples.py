"""The examples of docs/resume.md, run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

PAGE = (Path(__file__).parents[2] / "docs/resume.md").read_text()


def example(language: str, server: Any) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8000" in block
    return str(block).replace("http://127.0.0.1:8000", server.url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server: Any, tmp_path: Path) -> None:
    script = example("bash", server)
    command = ["bash", "-euc", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "[DONE]" in done.stdout, done.stderr
    first, rest = (tmp_path / "first.txt").read_text(), (tmp_path / "rest.txt").read_text()
    assert first.count("\n\n") == 20
    ids = [int(each) for each in re.findall(r"^id: (\d+)$", first + rest, re.MULTILINE)]
    assert len(ids) > 20
    assert ids == sorted(set(ids)), "nothing comes twice"
    chunks = [json.loads(line) for line in re.findall("^data: ({.*)", first + rest, re.MULTILINE)]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    body = json.loads(re.findall(r"-d '(.*)'", script)[0]) | {"stream": False}
    whole = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert text == whole["choices"][0]["message"]["content"]


def test_python(server: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example("python", server)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Penstock" in done.stdout
