"""The documentation as a site: it builds without a warning, loads nothing from elsewhere, and reads as it was meant."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """What a page loads, and the text of its paragraphs and table cells."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.paragraphs: list[str] = []
        self._within = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "link") and values.get("rel") not in ("next", "prev", "canonical"):
            self.loaded += [each for each in (values.get("src"), values.get("href")) if each]
        if tag in ("p", "td", "li"):
            self._within = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "td", "li"):
            self._within = False

    def handle_data(self, data: str) -> None:
        if self._within:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a page that is not in the navigation, a link or an anchor that leads nowhere is a failure."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    found = {str(file.relative_to(site)): Page(file) for file in site.rglob("*.html") if file.name != "404.html"}
    assert len(found) == len(list((ROOT / "docs").rglob("*.md")))
    return found


def test_nothing_is_loaded_from_elsewhere(pages: dict[str, Page], site: Path) -> None:
    for name, page in pages.items():
        assert page.loaded, name
        assert [each for each in page.loaded if re.match(r"(https?:)?//", each)] == [], name
    for sheet in site.rglob("*.css"):
        assert re.findall(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")) == [], sheet.name


def test_lists_and_tables_came_out_as_such(pages: dict[str, Page]) -> None:
    """A list without an empty line before it, or indented by two, is run into a paragraph by Markdown in Python."""
    for name, page in pages.items():
        broken = [text for text in page.paragraphs if re.search(r"\n\s*(?:- |\d\. |\| )|```", text)]
        assert broken == [], name
        assert [text for text in page.paragraphs if r"\|" in text] == [], name


def test_a_warning_ends_the_build(tmp_path: Path) -> None:
    """Or the first test above would say nothing."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    broken = {"index.md": "# A\n\n[none](b.md)", "c.md": "# C"}
    (tmp_path / "docs").mkdir()
    for name, text in broken.items():
        (tmp_path / "docs" / name).write_text(text)
    kept = {name: value for name, value in yaml.safe_load(settings).items() if name in ("site_name", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(kept | {"nav": [{"A": "index.md"}]}))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "c.md" in done.stderr and "'b.md'" in done.stderr
