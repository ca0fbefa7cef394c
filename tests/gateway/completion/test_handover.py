"""What one gateway process leaves in the journal, another goes on with: after its death, or while both are there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import tokenizers_for_tests as families
from engine_for_tests import EOS, INFO, FakeEngine, Records, ids_of, make_request
from msgspec.structs import replace
from resume_for_tests import KEY, Client, SteppedClock, form_of

from gateway.completion.durable import DurableJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.recording import Recording
from gateway.completion.streams import Streams
from gateway.errors import Gone, InvalidRequest, NotFound, Unavailable
from gateway.protocol.answer import AnswerOptions
from observability.records import RequestStats

ABC = ids_of("abcdefgh")
GRACE = 60.0


class Gateway:
    """A process of its own, as far as the journal can tell."""

    def __init__(self, path: Path, model: str = "m") -> None:
        self.clock = SteppedClock()
        self.records = Records()
        self.lifecycle = Lifecycle(families.byte_level(), record=self.records, clock=self.clock)
        self.journal = DurableJournal(path)
        self.streams = Streams(
            self.lifecycle,
            families.byte_level(),
            grace=GRACE,
            clock=self.clock,
            journal=self.journal,
            model=model,
            enter=self.enter,
        )
        self.inside: list[str] = []

    def enter(self, request: Any) -> Any:
        self.inside.append(request.id)
        return lambda: self.inside.remove(request.id)

    def start(self, fingerprint: str = "fake") -> FakeEngine:
        self.streams.open_journal()
        return self.up(fingerprint)

    def up(self, fingerprint: str = "fake") -> FakeEngine:
        self.engine = FakeEngine(self.lifecycle, info=replace(INFO, fingerprint=fingerprint))
        self.streams.ready()
        return self.engine

    def submit(self, name: str = "r", **fields: Any) -> Recording:
        request = make_request(name, **fields)
        form = form_of(AnswerOptions(prompts=request.prompts, n=request.n, usage=True)).encode()
        return self.streams.submit(request, key=KEY, form=form, on_end=lambda: None)

    async def written(self) -> None:
        """Until all that was said is committed and shown."""
        done = asyncio.Event()
        self.journal.follow(done.set)
        await done.wait()

    async def die(self) -> None:
        """The file is let go of; nothing is ended in order."""
        await self.journal.close()

    async def stop(self) -> None:
        self.lifecycle.close()
        await self.streams.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


async def test_streams_go_on_where_the_journal_has_them(path: Path) -> None:
    first = Gateway(path)
    first.start()
    client = Client(first.streams, first.submit(n=2))
    client.connect()
    first.engine.say("r:0", 0, *ABC[:2])
    first.engine.say("r:1", 0, ABC[0], EOS, finish="stop")
    await first.written()
    client.read()
    await first.die()
    second = Gateway(path)
    second.start()
    assert second.inside == ["r"]
    (start,) = second.engine.starts
    assert (start.id, start.output_prefix, start.choice) == ("r:0", ABC[:2], 0), "a finished sibling never restarts"
    client.streams = second.streams
    client.connect()
    second.engine.say("r:0", 2, ABC[2], EOS, finish="stop")
    await second.written()
    client.read()
    assert client.joined.texts == {0: "abc", 1: "a"}
    assert client.joined.finishes == {0: [("stop", None)], 1: [("stop", None)]}
    assert client.joined.usages[0]["completion_tokens"] == 6
    client.lose()
    assert not second.inside
    await second.stop()


async def test_nothing_is_sent_before_it_is_committed(path: Path) -> None:
    gateway = Gateway(path)
    gateway.start()
    recording = gateway.submit()
    client = Client(gateway.streams, recording)
    client.connect()
    gateway.engine.say("r:0", 0, *ABC[:2])
    client.read()
    assert client.joined.texts == {0: ""}, "the writer's turn of the event loop is still to come"
    await gateway.written()
    client.read()
    assert client.joined.texts == {0: "ab"}
    await asyncio.wait_for(recording.saved(), 30)
    await gateway.stop()


async def test_what_nobody_comes_back_for_is_aborted_and_deleted(path: Path) -> None:
    first = Gateway(path)
    first.start()
    first.submit()
    first.engine.say("r:0", 0, ABC[0])
    await first.written()
    await first.die()
    second = Gateway(path)
    second.streams.open_journal()
    await second.clock.advance(10 * GRACE)
    assert len(second.streams) == 1, "before the server is ready nobody could have come"
    second.up()
    await second.clock.advance(GRACE - 1)
    assert not second.engine.aborts
    await second.clock.advance(2)
    assert second.engine.aborts == [("r:0", 1)]
    with pytest.raises(Gone):
        second.streams.find("r", KEY)
    await second.stop()
    third = Gateway(path)
    third.start()
    with pytest.raises(NotFound):
        third.streams.find("r", KEY)
    await third.stop()


async def test_a_complete_answer_is_kept_and_counted_once(path: Path) -> None:
    first = Gateway(path)
    first.start()
    first.submit()
    first.engine.say("r:0", 0, *ABC[:2], EOS, finish="stop")
    await first.written()
    await first.stop()
    second = Gateway(path)
    second.start()
    assert not second.engine.starts
    assert not second.inside
    client = Client(second.streams, second.streams.find("r", KEY))
    client.connect()
    client.read()
    assert client.done
    assert client.joined.texts == {0: "ab"}
    assert not [record for record in second.records if isinstance(record, RequestStats)]
    client.lose()
    await second.clock.advance(GRACE + 1)
    assert not len(second.streams)
    await second.stop()


async def test_a_server_that_is_told_to_stop_leaves_its_streams(path: Path) -> None:
    first = Gateway(path)
    first.start()
    client = Client(first.streams, first.submit())
    client.connect()
    first.engine.say("r:0", 0, ABC[0])
    await first.written()
    client.read()
    reader = client.reader
    assert reader is not None
    first.lifecycle.close()
    with pytest.raises(Unavailable) as caught:
        await anext(reader)
    assert caught.value.code == "stream_parked"
    assert "/v1/streams/r" in caught.value.message
    reader.cancel()
    await first.clock.advance(GRACE + 1)
    await first.streams.close()
    second = Gateway(path)
    second.start()
    assert second.engine.start("r:0").output_prefix == ABC[:1]
    await second.stop()


async def test_a_choice_that_went_on_with_other_numerics_is_written_with_them(path: Path) -> None:
    gateway = Gateway(path)
    gateway.start()
    gateway.submit(n=2)
    gateway.engine.say("r:0", 0, ABC[0])
    gateway.lifecycle._state.choices["r:1"].fingerprint = "others"
    gateway.engine.say("r:1", 0, ABC[0])
    gateway.engine.say("r:1", 1, ABC[1])
    await gateway.written()
    first, second = gateway.journal.load()[0].choices
    assert (first.fingerprint, second.fingerprint) == (INFO.fingerprint, "others")
    await gateway.stop()


async def test_streams_that_were_left_to_nobody_are_taken_back(path: Path) -> None:
    """The server that was to follow did not come."""
    gateway = Gateway(path)
    gateway.start()
    client = Client(gateway.streams, gateway.submit())
    client.connect()
    done = gateway.submit("done")
    gateway.engine.say("done:0", 0, ABC[0], EOS, finish="stop")
    gateway.engine.say("r:0", 0, ABC[0])
    await gateway.written()
    client.read()
    gateway.lifecycle.close()
    live = sorted(stream_id for stream_id, _, _ in gateway.streams._snapshot())
    assert live == ["done", "r"], "what a journal that begins anew would have"
    reader = client.reader
    assert reader is not None
    with pytest.raises(Unavailable, match="can be resumed"):
        await anext(reader)
    reader.cancel()
    gateway.lifecycle.reopen()
    await gateway.streams.take_back()
    assert gateway.streams.find("done", KEY) is done, "it had not been left"
    assert gateway.engine.start("r:0").output_prefix == ABC[:1]
    client.connect()
    gateway.engine.say("r:0", 1, ABC[1], EOS, finish="stop")
    await gateway.written()
    client.read()
    assert client.joined.texts == {0: "ab"}
    client.lose()
    assert not gateway.inside
    await gateway.stop()
    after = Gateway(path)
    after.streams.open_journal()
    assert len(after.streams) == 2, "complete answers, both"
    await after.stop()


async def test_what_is_taken_back_waits_for_the_grace_time(path: Path) -> None:
    gateway = Gateway(path)
    gateway.start()
    client = Client(gateway.streams, gateway.submit())
    client.connect()
    client.lose()
    await gateway.written()
    await gateway.clock.advance(GRACE - 1)
    gateway.lifecycle.close()
    gateway.lifecycle.reopen()
    await gateway.streams.take_back()
    await gateway.clock.advance(GRACE - 1)
    assert not gateway.engine.aborts[1:], "from when it was taken back"
    assert len(gateway.streams) == 1
    await gateway.clock.advance(2)
    assert len(gateway.engine.aborts) == 2
    assert not len(gateway.streams) and not gateway.streams._waits
    await gateway.written()
    assert not gateway.inside
    await gateway.stop()


async def test_who_read_what_was_left_leaves_what_was_taken_back_alone(path: Path) -> None:
    gateway = Gateway(path)
    gateway.start()
    client = Client(gateway.streams, gateway.submit())
    client.connect()
    before = client.reader
    assert before is not None
    await gateway.written()
    gateway.lifecycle.close()
    gateway.lifecycle.reopen()
    await gateway.streams.take_back()
    client.connect()
    await gateway.clock.advance(GRACE + 1)
    before.cancel()
    await gateway.clock.advance(GRACE + 1)
    assert len(gateway.streams) == 1, "it is being read"
    client.lose()
    await gateway.clock.advance(GRACE + 1)
    assert not len(gateway.streams)
    await gateway.stop()


async def test_a_request_that_failed_by_itself_is_not_tried_again(path: Path) -> None:
    first = Gateway(path)
    first.start()
    first.submit()
    (active,) = first.lifecycle._book
    first.lifecycle._state.fail(active, InvalidRequest("no"))
    await first.written()
    await first.die()
    second = Gateway(path)
    second.start()
    assert not second.engine.starts
    await second.stop()


async def test_streams_of_another_model_are_dropped(path: Path) -> None:
    first = Gateway(path)
    first.start()
    first.submit()
    await first.written()
    await first.die()
    second = Gateway(path, model="another")
    second.start()
    assert not second.engine.starts
    assert not second.inside
    with pytest.raises(Gone) as told:
        second.streams.find("r", KEY)
    assert told.value.message == (
        "The stream 'r' can no longer be resumed: another model serves now. Send the request again."
    )
    with pytest.raises(NotFound):
        second.streams.find("r", b"another key")
    await second.stop()


async def test_what_is_live_is_written_when_the_journal_comes_later(path: Path) -> None:
    """As a server does that replaces another, while that one still ends its streams."""
    old, new = Gateway(path), Gateway(path)
    old.start()
    old.submit("old")
    old.engine.say("old:0", 0, ABC[0])
    await old.written()
    new.streams.follow()
    new.up()
    await asyncio.sleep(0)
    new_recording = new.submit("new")
    assert not new_recording.durable
    new.engine.say("new:0", 0, *ABC[:2])
    client = Client(new.streams, new_recording)
    client.connect()
    client.read()
    assert client.joined.texts == {0: "ab"}, "streams do not wait for the journal"
    await new.clock.advance(1)
    with pytest.raises(Unavailable):
        new.streams.find("old", KEY)
    await old.stop()
    await new.clock.advance(1)
    while new.streams._taking_over is not None:  # noqa: ASYNC110 (a thread reads the file)
        await asyncio.sleep(0.01)
    assert new_recording.durable
    assert new.engine.start("old:0").output_prefix == ABC[:1]
    with pytest.raises(NotFound):
        new.streams.find("another", KEY)
    new.engine.say("new:0", 2, ABC[2])
    await new.written()
    await new.die()
    last = Gateway(path)
    last.start()
    assert {start.id: start.output_prefix for start in last.engine.starts} == {"old:0": ABC[:1], "new:0": ABC[:3]}
    await last.stop()


async def left_by_another(path: Path) -> Gateway:
    """A process that is to go on with a request of two choices of which nothing was emitted, and one that had begun."""
    first = Gateway(path)
    first.start()
    first.submit("new", n=2)
    first.submit("begun", n=2)
    first.engine.say("begun:1", 0, ABC[0])
    await first.written()
    await first.die()
    return Gateway(path)


async def test_what_comes_back_when_the_engines_are_given_up_is_told_so_and_stays(path: Path) -> None:
    second = await left_by_another(path)
    second.lifecycle.gave_up(0, "broken")
    second.streams.open_journal()
    second.streams.ready()
    await second.written()
    for name in ("new", "begun"):
        error = second.streams.find(name, KEY).error
        assert isinstance(error, Unavailable) and "The engine is gone: broken" in error.message
    assert not second.inside and not second.lifecycle.queued_requests + second.lifecycle.running_requests
    await second.stop()
    third = Gateway(path)
    third.start()
    assert {start.id for start in third.engine.starts} == {"new:0", "new:1", "begun:0", "begun:1"}
    await third.stop()


async def test_what_comes_back_while_the_server_drains_is_told_so_and_stays(path: Path) -> None:
    second = await left_by_another(path)
    second.up()
    second.lifecycle.drain()
    second.streams.open_journal()
    second.streams.ready()
    await second.written()
    assert isinstance(second.streams.find("new", KEY).error, Unavailable)
    assert {start.id for start in second.engine.starts} == {"begun:0", "begun:1"}, "what has begun goes on"
    await second.stop()
    third = Gateway(path)
    third.start()
    assert {start.id for start in third.engine.starts} == {"new:0", "new:1", "begun:0", "begun:1"}
    await third.stop()


async def taken_over(gateway: Gateway) -> None:
    gateway.streams.follow()
    async with asyncio.timeout(30):
        while gateway.streams._taking_over is not None:  # noqa: ASYNC110 (a thread reads the file)
            await asyncio.sleep(0.01)


async def test_a_journal_that_cannot_be_taken_over_is_said_and_the_server_goes_on(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await left_by_another(path)
    second.up()
    monkeypatch.setattr(second.journal, "load", lambda: 1 // 0)
    await taken_over(second)
    assert "could be gone on with" in caplog.text and "ZeroDivisionError" in caplog.text
    with pytest.raises(NotFound):
        second.streams.find("new", KEY)
    assert second.submit("later")
    await second.stop()


async def test_streams_stay_left_where_the_journal_cannot_be_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(path)
    gateway.start()
    recording = gateway.submit()
    await gateway.written()
    gateway.lifecycle.close()
    gateway.lifecycle.reopen()
    assert gateway.journal._connection is not None
    gateway.journal._connection.execute("ALTER TABLE entries RENAME TO others")
    await gateway.streams.take_back()
    assert "cannot be read: no such table" in caplog.text
    assert gateway.streams.find("r", KEY) is recording
    gateway.submit("later")
    assert gateway.engine.start("later:0")
    await gateway.stop()
