"""Documentation that is true: generated pages are current, links lead somewhere, commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gateway.settings import ServeSettings, flag_of, variable_of
from scripts import generate_docs
from scripts.cli_page import cli_page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "demo/README.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def targets() -> set[str]:
    """Of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", generate_docs.PAGES)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert not generate_docs.is_stale(name), "run `make docs`"


def test_generated_pages_name_every_setting_and_the_reader_finds_staleness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = cli_page()
    for name in ServeSettings.model_fields:
        assert f"`{variable_of(name)}`" in page
        assert flag_of(name) in page or name == "model"
    monkeypatch.setattr(generate_docs, "ROOT", tmp_path)
    assert all(map(generate_docs.is_stale, generate_docs.PAGES))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_is_a_target(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", (ROOT / page).read_text(encoding="utf-8")))
    assert named - {"up"} <= targets()
    assert {"serve", "test", "check", "bench", "docs"} <= targets()
    assert page != "README.md" or {"serve", "test"} <= named


def test_the_flags_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {flag_of(name) for name in ServeSettings.model_fields} | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


def test_the_files_that_architecture_names_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:gateway|engine|kernels|observability|tests)/[\w/.]+)`", text))
    assert len(files) > 15
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_functions_on_the_path_of_a_request_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    path = text.partition("## One request")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d\. \*\*`([\w/.]+)`\*\*(.*?)(?=^\d\. |\Z)", path, re.MULTILINE | re.DOTALL)
    assert len(steps) == 9
    sources = {name: (ROOT / name).read_text(encoding="utf-8") for name, _ in steps}
    for name, words in steps:
        named = re.findall(r"`(?:[A-Z]\w+\.)?([a-z_]+)`", words)
        assert any(re.search(rf"def {function}\(", sources[name]) for function in named), name


def test_the_python_snippet_is_python() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    compile(snippet, "README.md", "exec")


def test_the_curl_command_is_one_command() -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (command,) = [block for block in blocks if block.startswith("curl")]
    words = shlex.split(command)
    assert yaml.safe_load(words[words.index("-d") + 1])["model"] == "demo"


def test_compose_builds_a_service_with_a_health_check() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    for name in ("gateway-cpu", "gateway-nvidia"):
        names = {name for name in compose["services"][name]["environment"] if name.startswith("PENSTOCK_")}
        assert names <= {variable_of(name) for name in ServeSettings.model_fields}
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "sources"),
    [
        ("adding-a-model.md", ["engine/models/qwen2.py"]),
        ("adding-a-kernel.md", ["kernels/providers/cpu/silu_and_mul.py", "kernels/ops/silu_and_mul.py"]),
    ],
)
def test_a_worked_example_is_code_that_runs(page: str, sources: list[str]) -> None:
    """A route's is run by tests/gateway/routes/test_the_documented_route.py."""
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(examples) == len(sources)
    for example, source in zip(examples, sources, strict=True):
        assert example in (ROOT / source).read_text(encoding="utf-8")
