"""The SQLite journal by itself: what is committed is there for the next process, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_for_tests import make_request

from engine.messages import TokenLogprobs
from gateway.completion import durable
from gateway.completion.durable import DurableJournal, JournalError
from gateway.completion.events import PromptScored, Usage
from gateway.completion.stored import Emission, Ended, Head, Scored, Stored, encode
from observability.records import JournalCommit, JournalState

HEAD = Head(request=make_request(n=2), key=b"k", form=b"f", eos_ids=[1], fingerprint="fp", model="m")


class Committed(list[int]):
    """Numbers, in the order in which they were called."""

    def will(self, number: int) -> Any:
        return lambda: self.append(number)


def open_journal(path: Path, **options: Any) -> DurableJournal:
    journal = DurableJournal(path, **options)
    journal.open()
    return journal


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[DurableJournal]:
    journal = open_journal(path, **options)
    journal.start(lambda: ())
    try:
        yield journal
    finally:
        await journal.close()


def load(path: Path) -> list[Any]:
    journal = open_journal(path)
    try:
        return journal.load()
    finally:
        journal._connection.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_was_written_is_read_by_the_next(tmp_path: Path) -> None:
    path, committed = tmp_path / "j", Committed()
    scores = [TokenLogprobs(-0.5, 1, [3], [-0.5])]
    async with opened(path) as journal:
        journal.open_request("r", encode(HEAD), committed.will(0))
        entries = [Scored(0, scores), Emission(0, [7, 8], [], None, 2), Emission(1, [9], scores), Emission(0, [4])]
        for number, entry in enumerate([*entries, Emission(0, [], [], "length"), Ended(Usage(3, 4, 2))]):
            journal.append("r", number, encode(entry), committed.will(number + 1))
        journal.open_request("gone", encode(HEAD), committed.will(7))
        journal.append("gone", 0, encode(Emission(0, [1])), committed.will(8))
        journal.forget("gone")
        await until(lambda: len(committed) == 9)
    assert committed == list(range(9))
    (stored,) = load(path)
    assert stored.head == HEAD
    first, second = stored.choices
    assert (first.emitted.ids, first.emitted.finish, first.cached_tokens) == ([7, 8, 4], "length", 2)
    assert (second.emitted.ids, second.emitted.logprobs, second.emitted.finish) == ([9], scores, None)
    assert stored.scored == [PromptScored(0, scores)]
    assert stored.usage == Usage(3, 4, 2)
    assert stored.num_entries == 6
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (6,)
    connection.close()


def test_each_choice_goes_on_with_the_numerics_that_it_was_last_computed_with() -> None:
    entries = [Emission(0, [1]), Emission(1, [2], fingerprint="other"), Emission(1, [3])]
    stored = Stored(encode(HEAD), [encode(entry) for entry in entries])
    assert [held.fingerprint for held in stored.choices] == ["fp", "other"]


async def test_writes_that_come_together_are_one_commit(tmp_path: Path) -> None:
    records: list[Any] = []
    async with opened(tmp_path / "j", record=records.append) as journal:
        journal.open_request("r", encode(HEAD), lambda: None)
        for number in range(500):
            journal.append("r", number, encode(Emission(0, [number])), lambda: None)
    commits = [record for record in records if isinstance(record, JournalCommit)]
    assert sum(commit.entries for commit in commits) == 500
    assert len(commits) < 250


async def test_what_follows_is_called_in_its_turn(tmp_path: Path) -> None:
    committed = Committed()
    async with opened(tmp_path / "j") as journal:
        journal.open_request("r", encode(HEAD), committed.will(0))
        journal.follow(committed.will(1))
        journal.append("r", 0, encode(Emission(0, [1])), committed.will(2))
        journal.follow(committed.will(3))
        assert not committed, "nothing is committed in the turn in which it is said"
        await until(lambda: len(committed) == 4)
    assert committed == [0, 1, 2, 3]


async def test_what_is_said_to_a_journal_that_is_down_waits_for_what_was_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Committed()
    async with opened(tmp_path / "j") as journal:
        gates = [threading.Event() for _ in range(3)]
        begun: list[int] = []

        def fail(batch: list[Any]) -> sqlite3.Error:
            begun.append(len(begun))
            gates[min(begun[-1], 2)].wait(60)
            return sqlite3.OperationalError("no room")

        monkeypatch.setattr(journal, "_commit", fail)
        journal.open_request("r", encode(HEAD), said.will(0))
        await until(lambda: begun)
        journal.append("r", 0, encode(Emission(0, [1])), said.will(1))
        gates[0].set()
        await until(lambda: said)
        assert not journal.up
        journal.follow(said.will(2))
        assert said == [0], "the one before has not had its turn"
        for gate in gates:
            gate.set()
        await until(lambda: len(said) == 3)
        assert said == [0, 1, 2]
        journal.follow(said.will(3))
        assert said == [0, 1, 2, 3], "nothing is under way"


PROGRAM = f"""
import asyncio, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
from gateway.completion.durable import DurableJournal
from gateway.completion.stored import Emission, encode
from test_durable import HEAD
async def main():
    journal = DurableJournal(Path(sys.argv[1]))
    journal.open()
    journal.start(lambda: ())
    journal.open_request("r", encode(HEAD), lambda: None)
    for number in range(10**9):
        journal.append("r", number, encode(Emission(0, [number])), lambda n=number: print(n, flush=True))
        if number % 3 == 0:
            await asyncio.sleep(0)
asyncio.run(main())
"""


@pytest.mark.parametrize("kill_after", [1, 50, 400])
def test_a_process_killed_at_any_moment_has_written_what_it_said_it_has(tmp_path: Path, kill_after: int) -> None:
    """It prints each number when it is committed; what was printed must be there, and without a gap."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "j")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(kill_after)]
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
    last = max(int(line) for line in said if line.endswith(b"\n"))
    (stored,) = load(tmp_path / "j")
    ids = stored.choices[0].emitted.ids
    assert ids == list(range(len(ids)))
    assert len(ids) > last >= kill_after - 1


def test_another_server_is_kept_out(tmp_path: Path) -> None:
    first = open_journal(tmp_path / "j")
    with pytest.raises(JournalError, match="in use by another server"):
        open_journal(tmp_path / "j")
    first._connection.close()
    open_journal(tmp_path / "j")._connection.close()


def test_what_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    text, foreign, other = tmp_path / "text", tmp_path / "foreign", tmp_path / "other"
    text.write_text("notes that somebody needs " * 100)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE requests (a)")
    connection.close()
    before = [file.read_bytes() for file in (text, foreign)]
    for file in (text, foreign):
        with pytest.raises(JournalError, match="is not a journal of Penstock"):
            open_journal(file)
    assert [file.read_bytes() for file in (text, foreign)] == before
    open_journal(other)._connection.close()
    with sqlite3.connect(other) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="format 99"):
        open_journal(other)
    with pytest.raises(JournalError, match="No such file or directory"):
        open_journal(tmp_path / "missing" / "j")
    with pytest.raises(JournalError, match="Is a directory"):
        open_journal(tmp_path)


async def test_a_damaged_journal_is_one_readable_error(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with opened(path) as journal:
        journal.open_request("r", encode(HEAD), lambda: None)
        for number in range(100):
            journal.append("r", number, encode(Emission(0, list(range(500)))), lambda: None)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(JournalError, match=r"the journal .* cannot be .*malformed"):
        load(path)
    path.write_bytes(whole)
    assert len(load(path)) == 1
    journal = open_journal(path)
    assert journal._connection is not None
    journal._connection.execute("DROP TABLE entries")
    with pytest.raises(JournalError, match="cannot be read: no such table"):
        journal.load()
    journal._connection.close()


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    open_journal(tmp_path / "j")._connection.close()
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path / "j") as journal:
        journal.open_request("bad head", b"\xc1", lambda: None)
        journal.open_request("bad choice", encode(HEAD), lambda: None)
        journal.append("bad choice", 0, encode(Emission(7, [1])), lambda: None)
        journal.open_request("good", encode(HEAD), lambda: None)
        journal.append("good", 0, encode(Emission(0, [1])), lambda: None)
        journal.append("good", 2, encode(Emission(0, [3])), lambda: None)
    (stored,) = load(tmp_path / "j")
    assert stored.choices[0].emitted.ids == [1], "nothing after a gap"
    assert caplog.text.count("cannot be read") == 2
    assert len(count(tmp_path / "j")) == 3, "to look is not to delete"
    journal = open_journal(tmp_path / "j")
    assert len(journal.load()) == 1
    journal.start(lambda: ())
    await journal.close()
    assert count(tmp_path / "j") == {"good": 2}


def count(path: Path) -> dict[str, int]:
    """Entries of each request."""
    with sqlite3.connect(path) as connection:
        entries = dict(connection.execute("SELECT request, count(*) FROM entries GROUP BY request").fetchall())
        requests = [name for (name,) in connection.execute("SELECT id FROM requests")]
    connection.close()
    assert entries.keys() <= {*requests}
    return {name: entries.get(name, 0) for name in requests}


async def test_entries_go_with_their_request(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with opened(path) as journal:
        for name in ("gone", "good"):
            journal.open_request(name, encode(HEAD), lambda: None)
            journal.append(name, 0, encode(Emission(0, [1])), lambda: None)
        await until(lambda: not journal._under_way)
        journal.forget("gone")
        assert journal._under_way == 1, "one write: a kill leaves all of it or nothing"
    assert count(path) == {"good": 1}
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO entries VALUES ('orphan', 0, x'00')")
    connection.close()
    open_journal(path)._connection.close()  # type: ignore[union-attr]
    assert count(path) == {"good": 1}


async def test_a_full_disk_stops_the_promise_and_not_the_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(durable, "RETRY", 0.05)
    records: list[Any] = []
    committed = Committed()
    live: list[Any] = []
    journal = open_journal(tmp_path / "j", record=records.append)
    journal.start(lambda: live)
    journal.open_request("r", encode(HEAD), committed.will(0))
    await until(lambda: committed)
    journal._connection.execute("PRAGMA max_page_count = 1")  # no more than there is
    large = [encode(Emission(0, list(range(5000))))]
    with caplog.at_level(logging.WARNING):
        for number in range(1, 20):
            journal.append("r", number - 1, large[0], committed.will(number))
            await asyncio.sleep(0.001)
        await until(lambda: len(committed) == 20)
        assert committed == list(range(20)), "in order, written or not"
        live.append(("r", encode(HEAD), large * 19))
        assert JournalState(failed=1) in records
        assert "full" in caplog.text and "would not outlive" in caplog.text
        journal._connection.execute("PRAGMA max_page_count = 100000")
        await until(lambda: records[-1] == JournalState(failed=0) and journal.up)
        journal.append("r", 19, large[0], committed.will(20))
        await until(lambda: len(committed) == 21)
    await journal.close()
    (stored,) = load(tmp_path / "j")
    assert stored.choices[0].emitted.ids == list(range(5000)) * 20
