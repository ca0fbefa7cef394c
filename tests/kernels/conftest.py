"""Tests of kernels run them in every build that this machine can run; helpers are imported by name from ``cpu/``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "cpu"))

import builds_for_tests

from kernels.providers.cpu import loader
from kernels.providers.cpu.library import Library


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[builds_for_tests.Builds]:
    with closing(builds_for_tests.Builds(tmp_path_factory.mktemp)) as builds:
        yield builds


@pytest.fixture(params=[pytest.param(name, marks=builds_for_tests.marks(name)) for name in builds_for_tests.NAMES])
def library(request: pytest.FixtureRequest, builds: builds_for_tests.Builds) -> Library | None:
    """Each build of the CPU kernels; a test that names its builds itself may name None."""
    return builds[request.param] if request.param else None


@pytest.fixture
def computing_with(library: Library | None, monkeypatch: pytest.MonkeyPatch) -> Library | None:
    """The same build, which providers load inside this test."""
    monkeypatch.setattr(loader, "find", lambda: library)
    return library


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads kernels compute with, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
