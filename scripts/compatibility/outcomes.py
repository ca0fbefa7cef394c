"""What became of each test, out of a JUnit report, and what is known about those that fail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import yaml

MOST_SAID = 240
"""Characters of a failure's message that are shown."""


@dataclass(frozen=True)
class Outcome:
    """Of one test."""

    test: str
    result: Literal["passed", "failed", "skipped"]
    said: str = ""
    """The first line of a failure, or why it was skipped."""


@dataclass(frozen=True)
class Explanation:
    """Why some tests of a suite fail."""

    suite: str
    tests: re.Pattern[str]
    """Found in their names."""
    says: re.Pattern[str]
    """Found in what they say: another failure of the same test is not explained by this."""
    because: str

    def covers(self, suite: str, outcome: Outcome) -> bool:
        return suite == self.suite and bool(self.tests.search(outcome.test) and self.says.search(outcome.said))


def read_report(path: Path) -> list[Outcome]:
    """Raises OSError or ParseError where there is no whole report."""
    return [_outcome(case) for case in ElementTree.parse(path).iter("testcase")]


def _outcome(case: ElementTree.Element) -> Outcome:
    places = case.get("classname", "").removeprefix("tests.api_resources.").split(".")
    # The names of our own files say nothing, and Node's reporter writes "test" where a class would be.
    if places[0] == "test" or places[0].startswith("suite_"):
        del places[0]
    test = ".".join([*places, case.get("name", "")])
    for child in case:
        if child.tag in ("failure", "error"):
            return Outcome(test, "failed", _first_line(child.get("message") or child.text or ""))
        if child.tag == "skipped":
            return Outcome(test, "skipped", _first_line(child.get("message") or ""))
    return Outcome(test, "passed")


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[0] if lines else ""
    return said if len(said) <= MOST_SAID else said[: MOST_SAID - 1] + "…"


def read_explanations(path: Path) -> list[Explanation]:
    return [
        Explanation(
            each["suite"], re.compile(each["tests"]), re.compile(each["says"]), " ".join(each["because"].split())
        )
        for each in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def explanation_of(suite: str, outcome: Outcome, explanations: Sequence[Explanation]) -> Explanation | None:
    return next((each for each in explanations if each.covers(suite, outcome)), None)
