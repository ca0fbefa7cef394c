"""Cores and memory as a container sees them, and which package answers to the name ``kernels``."""

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

import engine
from engine.worker.machine import available_cores, available_memory
from engine.worker.own_kernels import foreign_kernels, require_own_kernels

GIB = 1 << 30


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        for name, text in contents.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 1000), ("150000 100000", 1), ("50000 100000", 1), ("400000 100000\n", 4)],
)
def test_cores_under_a_quota(files, monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000)))
    assert available_cores(files(cpu__max=quota)) == expected


def test_cores_without_cgroups(tmp_path):
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_memory_is_what_is_available(files):
    folder = files(meminfo="MemTotal: 99 kB\nMemAvailable:    2097152 kB\n")
    assert available_memory(folder / "meminfo", folder) == 2 * GIB


def test_memory_under_a_limit(files):
    folder = files(meminfo="MemAvailable: 2097152 kB\n", memory__max=f"{GIB}\n", memory__current=f"{GIB // 4}\n")
    assert available_memory(folder / "meminfo", folder) == GIB * 3 // 4


def test_memory_without_proc(tmp_path):
    assert available_memory(tmp_path / "meminfo", tmp_path) > 0


def test_our_kernels_are_found():
    require_own_kernels()
    assert foreign_kernels(find_spec("kernels")) == ""


def test_another_package_of_that_name_is_told_in_one_line(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    spec = ModuleSpec("kernels", None, origin=str(tmp_path / "kernels" / "__init__.py"), is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "kernels")]
    problem = foreign_kernels(spec)
    assert f"{tmp_path}/kernels/__init__.py" in problem
    assert "\n" not in problem
    assert "missing" in foreign_kernels(None)


def test_the_worker_says_so_before_anything_else_is_imported(tmp_path):
    """A regular package hides a namespace package wherever it stands on the path."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    code = "from engine.errors import ConfigurationError\ntry:\n    import engine.worker.worker\n"
    code += "except ConfigurationError as error:\n    print(error)"
    root = str(Path(engine.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("another package named 'kernels'")
    assert done.stdout.count("\n") == 1
