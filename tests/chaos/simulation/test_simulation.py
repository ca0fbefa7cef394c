"""Thousands of seeded histories of the production classes, and the proof that they would notice a bug."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sim_history
import sim_planted
import sim_world

SIMULATE = Path(__file__).with_name("simulate.py")
HISTORIES = 360
CATCH_WITHIN = 300
"""Histories in which every planted bug must have shown: the first of those that the product passes."""
DOCUMENTED = re.compile(r"^\| ([^|]+) \| (\d+) \|$", re.MULTILINE)
"""A planted bug and the number of the history that has caught it, in the table of ``docs/simulation.md``."""


def simulate(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SIMULATE), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | environment)


@pytest.mark.slow
def test_every_history_holds_every_invariant() -> None:
    """And much has happened in them: an invariant of what never happens would hold too."""
    done = simulate("--count", str(HISTORIES))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4000:]
    lines = re.findall(r"^ *(\d+)  (.+)$", done.stdout, re.MULTILINE)
    happened = Counter({what: int(often) for often, what in lines})
    assert f"{HISTORIES} histories" in done.stdout
    rare = {
        what: happened[what]
        for what in (
            *(f"fault: {kind}" for kind in sim_world.FAULTS),
            *("request answered", "request failed", "request refused", "request gone", "request tried again"),
            *("engine lost", "engine given up", "replay", "preemption", "prefix hit", "output lost", "drain"),
            *(
                "poison",
                "conviction",
                "choice that crashed engines: 4",
                "steps that overlap",
                "gateway process",
                "stream of an earlier process",
                "stream resumed",
                "journal down",
            ),
            "request cut",
        )
        if happened[what] < 5
    }
    assert not rare


@pytest.fixture(scope="module")
def documented() -> dict[str, int]:
    page = Path(__file__).parents[3] / "docs" / "simulation.md"
    return {name: int(number) - 1 for name, number in DOCUMENTED.findall(page.read_text())}


def test_the_documented_bugs_are_those_that_are_planted(documented: dict[str, int]) -> None:
    assert documented.keys() == sim_planted.BUGS.keys()
    assert all(seed < CATCH_WITHIN for seed in documented.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sim_planted.BUGS)
def test_planted_bug_is_caught(name: str, documented: dict[str, int]) -> None:
    """The history that the documentation names is tried first: until something changes, it is that one."""
    with sim_planted.BUGS[name]():
        for seed in (documented[name], *range(CATCH_WITHIN)):
            try:
                sim_history.run(seed)
            except sim_history.FailedHistoryError as error:
                assert f"SEED={seed}" in str(error)
                return
    raise AssertionError(f"{CATCH_WITHIN} histories have not shown that {name}")


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    seed = "13"
    first, second = (simulate("--seed", seed, PYTHONHASHSEED=salt) for salt in ("1", "2"))
    assert first.returncode == 0 and first.stdout == second.stdout
    assert "digest" in first.stdout
    assert simulate("--seed", "14").stdout.split()[3:] != first.stdout.split()[3:]


def test_a_failure_says_how_to_see_it_again() -> None:
    with sim_planted.BUGS["the last block leaks"](), pytest.raises(sim_history.FailedHistoryError) as failed:
        sim_history.run(0)
    assert "SEED=0\n" in str(failed.value) and "simulate.py --seed 0" in str(failed.value)
    with sim_planted.BUGS["the last block leaks"](), pytest.raises(sim_history.FailedHistoryError) as again:
        sim_history.run(0)
    assert str(again.value) == str(failed.value)
    sim_history.run(0)
