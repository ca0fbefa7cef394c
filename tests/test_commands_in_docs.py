"""Commands in the documentation: subcommands and flags of penstock, targets of make and modules that there are."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from scripts.cli_page import commands

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "demo/README.md"])
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
ENDS = {"|", ">", ">>", "<", "&", "&&", ";"}
FLAGS = {
    name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in commands().items()
}


def lines(text: str) -> Iterator[str]:
    """Of blocks without a language or in a shell's, whole, and code within text."""
    for language, block in BLOCK.findall(text):
        if language in ("", "bash"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from INLINE.findall(BLOCK.sub("", text))


def told(first: str) -> list[tuple[str, list[str]]]:
    """(page, words) of every command that begins so, or that a container is to run."""
    found = []
    for page in PAGES:
        for line in lines(page.read_text(encoding="utf-8")):
            if not line.strip().startswith((f"{first} ", "docker run ")):
                continue
            words = shlex.split(line, comments=True)
            if first in words:
                words = words[words.index(first) + 1 :]
                end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
                found.append((page.name, words[:end]))
    return [each for each in found if each[1]]


def test_subcommands_and_flags_of_penstock_exist() -> None:
    checked = 0
    for page, (name, *words) in told("penstock"):
        if name in {"--version", "--help", "COMMAND"}:
            continue
        assert name in FLAGS, f"{page}: penstock {name}"
        known = FLAGS[name] | {"--help"}
        for word in words:
            if word == "--":
                known = FLAGS["serve"]
            elif re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, f"{page}: penstock {name} {word}"
                checked += 1
    assert checked > 20


def test_what_make_is_asked_for_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {(page, word) for page, words in told("make") for word in words if re.fullmatch(r"[a-z-]+", word)}
    assert len(asked) > 10
    assert {(page, word) for page, word in asked if word not in targets} == set()


def test_what_python_is_to_run_exists() -> None:
    made_by_the_reader = {("start.md", "same.py")}
    found = told("python")
    assert len(found) > 10
    for page, words in found:
        if words[0] == "-m":
            assert importlib.util.find_spec(words[1]) is not None, (page, words)
        else:
            assert (page, words[0]) in made_by_the_reader or (ROOT / words[0]).is_file(), (page, words)
