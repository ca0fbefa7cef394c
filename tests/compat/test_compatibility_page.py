"""What `make compat` makes of reports and explanations, and that its parts fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.compatibility import page
from scripts.compatibility.outcomes import Explanation, Outcome, read_explanations, read_report
from scripts.compatibility.suites import NODE, PYTEST, SOURCES, SUITES

REPORT = """<testsuites><testsuite>
<testcase classname="tests.api_resources.chat.test_a.TestAsyncX" name="test_b[strict]">
  <failure message="first | line&#10;second">trace</failure></testcase>
<testcase classname="tests.api_resources.chat.test_a.TestX" name="test_b[strict]">
  <failure message="first | line&#10;second">trace</failure></testcase>
<testcase classname="suite_y" name="test_c"><skipped message="no sound">at</skipped></testcase>
<testcase classname="test" name="a stream: of Node"/>
<testcase classname="suite_y.TestZ" name="test_d"><error>
  no fixture</error></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def run(tmp_path: Path) -> page.Run:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    return page.Run(SUITES[0], {"openai": "1.2"}, read_report(report))


def explain(tests: str, says: str) -> Explanation:
    return Explanation(SUITES[0].name, re.compile(tests), re.compile(says), "It is so.")


def test_reports_of_both_kinds_are_read(run: page.Run) -> None:
    assert run.outcomes == [
        Outcome("chat.test_a.TestAsyncX.test_b[strict]", "failed", "first | line"),
        Outcome("chat.test_a.TestX.test_b[strict]", "failed", "first | line"),
        Outcome("test_c", "skipped", "no sound"),
        Outcome("a stream: of Node", "passed"),
        Outcome("TestZ.test_d", "failed", "no fixture"),
    ]


def test_a_failure_is_explained_by_what_it_says(run: page.Run) -> None:
    known = [explain("test_b", "first"), explain("test_d", "another reason")]
    assert page.unexplained([run], known) == ["openai-python: TestZ.test_d: no fixture"]
    assert page.stale([run], known) == ["openai-python: test_d"]
    assert page.stale([], known) == []


def test_the_page_has_every_failure_and_every_skip(run: page.Run) -> None:
    text = page.write([run], [explain("test_b", "first")], ["--flag"], "Penstock 0")
    assert "| openai-python | openai 1.2 | its own | 1 | 3 | 1 |" in text
    assert "| `chat.test_a.TestX.test_b` | 2 | `first ¦ line` | It is so. |" in text
    assert f"| `TestZ.test_d` | 1 | `no fixture` | {page.UNEXPLAINED} |" in text
    assert "| `test_c` | `no sound` |" in text and "penstock serve --flag" in text


def test_every_explanation_is_of_a_suite() -> None:
    explanations = read_explanations(SOURCES / "explanations.yaml")
    assert explanations and {each.suite for each in explanations} <= {suite.name for suite in SUITES}


def test_the_files_of_the_suites_exist_and_versions_are_pinned() -> None:
    for suite in SUITES:
        assert suite.source == "" or all((SOURCES / suite.source / name).is_file() for name in suite.files)
        assert all("==" in package for package in (*suite.packages, *PYTEST, NODE))
    packages = json.loads((SOURCES / "node" / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in packages.values())


def test_the_page_is_of_these_suites() -> None:
    """With the versions that are pinned: whoever changes those runs `make compat`."""
    text = (SOURCES.parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for suite in SUITES:
        pinned = {
            package.partition("==")[0].partition("[")[0]: package.partition("==")[2] for package in suite.packages
        }
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {suite.name} | ")]
        assert all(f"{name} {pinned[name]}" in row for name in suite.shown if name in pinned)
    assert page.UNEXPLAINED not in text
