"""The pictures of the documentation: what is drawn has happened, in an engine that runs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.pool_picture import EMPTY, FIRST_OWNER, KEPT, SHARED
from scripts.pictures import determinism, paging, recovery, scheduler
from scripts.pictures.__main__ import FOLDER, PICTURES


def test_a_long_prompt_is_read_in_chunks_beside_streams_and_short_ones_at_once(tmp_path: Path) -> None:
    parts = scheduler.observe()
    for step in range(parts[-1].step + 1):
        assert sum(part.tokens for part in parts if part.step == step) <= scheduler.BUDGET
    long = [part.tokens for part in parts if part.name == scheduler.LONG and part.is_prompt]
    assert long == [scheduler.SHARE] * 6 + [8]
    for name in scheduler.STREAMS:
        steps = [part.step for part in parts if part.name == name]
        assert steps == list(range(steps[0], steps[-1] + 1)), f"{name} never waits"
    (step,) = {part.step for part in parts if part.name in scheduler.BURST and part.is_prompt}
    assert {part.name for part in parts if part.step == step and part.is_prompt} == set(scheduler.BURST)
    scheduler.draw(parts, tmp_path / "picture.svg")
    assert "long prompt" in (tmp_path / "picture.svg").read_text()


def test_requests_that_begin_alike_share_blocks_and_what_has_ended_is_found_again(tmp_path: Path) -> None:
    alone, shared, ended, again = paging.observe()
    common = paging.SYSTEM // 16
    assert set(alone.cells) == {EMPTY, FIRST_OWNER} and len(alone.tables["A"]) == 5
    assert shared.tables["A"][:common] == shared.tables["B"][:common]
    assert shared.cells.count(SHARED) == common and not set(shared.tables["C"]) & set(shared.tables["A"])
    kept = alone.tables["A"][common]
    assert ended.cells[kept] == KEPT and "A" not in ended.tables
    assert again.tables["D"][: common + 1] == alone.tables["A"][: common + 1]
    paging.draw([alone, shared, ended, again], tmp_path / "picture.svg")
    assert "block table of D" in (tmp_path / "picture.svg").read_text()


def test_differences_are_drawn(tmp_path: Path) -> None:
    determinism.draw({"one": [1e-6, 0.0], "other": [0.0, 0.0]}, tmp_path / "picture.svg")
    assert "one: 1 of 2 differ" in (tmp_path / "picture.svg").read_text()


def test_a_stream_counts_tokens_and_the_longest_gap_after_the_kill_is_its_pause(tmp_path: Path) -> None:
    stream = recovery.Stream()
    lines = [": keep-alive", 'data: {"choices": [{"token_ids": [1, 2]}]}', 'data: {"choices": []}', "data: [DONE]"]
    for now, line in enumerate(lines):
        stream.take(line, float(now))
    assert (stream.ids, stream.arrivals) == ([1, 2], [(1.0, 2), (2.0, 2)])
    with pytest.raises(ValueError, match="error"):
        stream.take('data: {"error": {}}', 9.0)
    stream.arrivals = [(0.0, 1), (3.0, 2), (3.1, 3), (5.1, 9), (5.2, 10)]
    kill = recovery.Kill(3.05, [stream])
    assert kill.pauses == [(3.1, 5.1)]
    recovery.draw({"a kill": kill}, tmp_path / "picture.svg")
    assert "the longest pause is 2.0 s" in (tmp_path / "picture.svg").read_text()


def test_every_picture_is_there() -> None:
    assert {file.stem for file in FOLDER.glob("*.svg")} == {*PICTURES, "icon"}
