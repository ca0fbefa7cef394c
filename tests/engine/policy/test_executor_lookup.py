from __future__ import annotations

import sys
from pathlib import Path

import pytest

import engine.executor
from engine.errors import ConfigurationError
from engine.executor import executor_names, find_executor
from engine.executor.base import Executor

MODULE = """
from engine.executor.base import Executor
class Mine(Executor):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules are part of ``engine.executor`` during a test."""
    monkeypatch.setattr(engine.executor, "__path__", [*engine.executor.__path__, str(tmp_path)])
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"engine.executor.{path.stem}", None)


def test_one_more_file_is_one_more_executor(folder: Path) -> None:
    (folder / "mine.py").write_text(MODULE)
    assert executor_names() == ["mine", "multiproc", "uniproc"]
    found = find_executor("mine")
    assert issubclass(found, Executor) and found.__name__ == "Mine"


@pytest.mark.parametrize("name", ["nope", "base", "../base", ""])
def test_an_unknown_name_lists_those_that_exist(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"there are: multiproc, uniproc\."):
        find_executor(name)


def test_the_number_of_ranks_chooses_one() -> None:
    assert [find_executor("auto", ranks).__name__ for ranks in (1, 2)] == ["UniprocExecutor", "MultiprocExecutor"]


def test_a_module_without_an_executor_is_named(folder: Path) -> None:
    (folder / "empty.py").write_text("from engine.executor.base import Executor")
    with pytest.raises(ConfigurationError, match=r"engine\.executor\.empty defines no Executor"):
        find_executor("empty")
