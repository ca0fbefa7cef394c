"""The rules of a choice's life, each by a fake engine that does one thing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tokenizers_for_tests as families
from engine_for_tests import EOS, FakeEngine, make_request, ready_events, text_and_end
from lifecycle_world import ABC, World

from engine.grammar import Grammar
from engine.messages import Rejected, TokenLogprobs, Tokens
from engine.sampling_params import NOTHING_LEFT
from gateway.completion.events import Completed, Delta, PromptScored, Usage
from gateway.completion.journal import MemoryJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.errors import InternalError, InvalidRequest, NoRoom
from observability.records import ChoiceStats


@pytest.fixture
def world() -> World:
    return World()


# --- the plain course --------------------------------------------------------------------------------------------


async def test_a_request_runs_to_its_end(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    start = world.engine.start("r:0")
    assert (start.attempt, start.prompt, start.output_prefix, start.seed, start.choice) == (1, [5, 6, 7], [], 9, 0)
    for at, token_id in enumerate(ABC[:3]):
        world.engine.say("r:0", at, token_id)
    world.engine.say("r:0", 3, EOS, finish="stop")
    assert await text_and_end(stream) == ("abc", "stop", Completed(Usage(3, 4, 0)))
    assert not world.engine.aborts
    world.assert_nothing_is_left()


async def test_deltas_are_there_as_soon_as_their_tokens(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.say("r:0", 0, ABC[0])
    (event,) = ready_events(stream)
    assert isinstance(event, Delta)
    assert (event.text, event.finish_reason) == ("a", None)
    assert ready_events(stream) == []


async def test_n_choices_of_several_prompts_fan_out_in_order(world: World) -> None:
    stream = world.lifecycle.submit(make_request(prompts=([5], [6, 7]), n=2, max_tokens=1))
    starts = world.engine.starts
    assert [(start.id, start.choice, start.prompt) for start in starts] == [
        ("r:0", 0, [5]),
        ("r:1", 1, [5]),
        ("r:2", 2, [6, 7]),
        ("r:3", 3, [6, 7]),
    ]
    stats = [ChoiceStats(queue_time=0, prefill_time=0, cached_tokens=cached) for cached in (0, 1, 2, 1)]
    outputs = [Tokens(id=f"r:{i}", attempt=1, at=0, ids=[ABC[i]], stats=stats[i]) for i in (3, 1, 0, 2)]
    world.engine.step(*outputs)
    *deltas, completed = await anext(stream)
    assert {delta.index: (delta.text, delta.finish_reason) for delta in deltas} == {
        i: ("abcd"[i], "length") for i in range(4)
    }
    assert completed == Completed(Usage(3, 4, 1)), "a prompt counts once, its cached tokens as of the first to see it"


async def test_one_choice_scores_the_prompt_for_all(world: World) -> None:
    stream = world.lifecycle.submit(make_request(prompts=([5, 6], [7, 8]), n=2, prompt_logprobs=1))
    assert [start.params.prompt_logprobs for start in world.engine.starts] == [1, None, 1, None]
    scores = [TokenLogprobs(-1.0, 1, [], [])]
    world.engine.say("r:1", 0, ABC[1])
    assert ready_events(stream) == [], "its prompt's scores come first"
    world.engine.say("r:2", 0, ABC[2], prompt_logprobs=scores)
    world.engine.say("r:0", 0, ABC[0], prompt_logprobs=scores)
    events = ready_events(stream)
    assert [getattr(event, "text", event) for event in events] == [
        PromptScored(1, scores),
        "c",
        PromptScored(0, scores),
        "b",
        "a",
    ]
    world.engine.lose()
    assert [start.params.prompt_logprobs for start in world.restart().starts] == [None] * 4, "they are there"


async def test_another_choice_scores_the_prompt_where_the_first_is_set_back(world: World) -> None:
    stream = world.lifecycle.submit(make_request(n=2, prompt_logprobs=0, max_tokens=1))
    world.engine.say("r:1", 0, ABC[1], finish="length")
    world.engine.say("r:0", 3, ABC[1])
    again = world.engine.start("r:0")
    assert (again.attempt, again.params.prompt_logprobs) == (2, 0)
    world.engine.lose()
    assert [(start.id, start.params.prompt_logprobs) for start in world.restart().starts] == [("r:0", 0)]
    scores = [TokenLogprobs(-1.0, 1, [], [])] * 2
    world.engine.say("r:0", 0, ABC[0], attempt=3, prompt_logprobs=scores, finish="length")
    scored, second, first, completed = ready_events(stream)
    assert scored == PromptScored(0, scores) and completed == Completed(Usage(3, 2, 0))
    assert isinstance(first, Delta) and isinstance(second, Delta) and (first.text, second.text) == ("a", "b")
    world.assert_nothing_is_left()


# --- which tokens count ------------------------------------------------------------------------------------------


async def test_tokens_of_another_attempt_or_choice_or_epoch_are_nothing(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.say("r:0", 0, ABC[0], attempt=2)
    world.engine.say("s:0", 0, ABC[0])
    world.engine.epoch = 7
    world.engine.say("r:0", 0, ABC[0])
    assert ready_events(stream) == []
    assert not world.engine.aborts


@pytest.mark.parametrize("at", [1, 3])
async def test_a_gap_or_a_repetition_restarts_the_attempt_from_what_is_held(world: World, at: int) -> None:
    stream = world.lifecycle.submit(make_request(max_tokens=4))
    world.engine.say("r:0", 0, *ABC[:2])
    world.engine.say("r:0", at, ABC[7])
    assert world.engine.aborts == [("r:0", 1)]
    start = world.engine.start("r:0")
    assert (start.attempt, start.output_prefix) == (2, ABC[:2])
    world.engine.say("r:0", 3, ABC[7])
    world.engine.say("r:0", 2, *ABC[2:4], attempt=2, finish="length")
    assert await text_and_end(stream) == ("abcd", "length", Completed(Usage(3, 4, 0)))


async def test_a_lasting_gap_ends_the_request(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    for attempt in range(1, 6):
        world.engine.say("r:0", 5, ABC[0], attempt=attempt)
    with pytest.raises(InternalError, match="out of order"):
        await text_and_end(stream)
    assert len(world.engine.starts) == 4
    world.assert_nothing_is_left()


async def test_a_gap_now_and_then_ends_nothing(world: World) -> None:
    world.lifecycle.submit(make_request())
    for held in range(6):
        attempt = 2 * held + 1
        world.engine.say("r:0", 50, ABC[7], attempt=attempt)
        world.engine.say("r:0", 50, ABC[7], attempt=attempt + 1)
        world.engine.say("r:0", held, ABC[held], attempt=attempt + 2)
        world.engine.say("r:0", 50, ABC[7], attempt=attempt + 2)
        if held < 5:
            world.engine.sent[-1] = world.engine.start("r:0")
    assert world.engine.start("r:0").output_prefix == ABC[:6]


async def test_nothing_is_sent_that_the_journal_does_not_hold(world: World) -> None:
    class FullDisk(MemoryJournal):
        def append(self, choice_id, ids, logprobs):
            raise OSError("no space left")

    lifecycle = Lifecycle(families.byte_level(), record=world.records, journal=FullDisk())
    engine = FakeEngine(lifecycle)
    stream = lifecycle.submit(make_request())
    engine.say("r:0", 0, ABC[0])
    with pytest.raises(InternalError):
        await anext(stream)


# --- Done ------------------------------------------------------------------------------------------------------


async def test_a_stop_string_ends_a_choice_and_the_engine_hears_of_it(world: World) -> None:
    stream = world.lifecycle.submit(make_request(stop=("cd",)))
    world.engine.say("r:0", 0, *ABC[:3])
    assert not world.engine.aborts
    world.engine.say("r:0", 3, ABC[3])
    assert world.engine.aborts == [("r:0", 1)]
    world.engine.say("r:0", 4, ABC[4])
    assert await text_and_end(stream) == ("ab", "stop", Completed(Usage(3, 4, 0)))


async def test_the_first_reason_wins(world: World) -> None:
    stream = world.lifecycle.submit(make_request(stop=("ab",)))
    world.engine.say("r:0", 0, *ABC[:3], finish="length")
    stream.cancel()
    world.engine.lose()
    world.restart().say("r:0", 0, *ABC[:3], finish="length")
    assert await text_and_end(stream) == ("", "stop", Completed(Usage(3, 2, 0)))
    assert len(world.ended) == 1


async def test_a_request_is_done_when_all_its_choices_are(world: World) -> None:
    stream = world.lifecycle.submit(make_request(n=2))
    world.engine.say("r:1", 0, ABC[0], finish="length")
    assert [type(event) for event in ready_events(stream)] == [Delta]
    assert not world.ended
    world.engine.say("r:0", 0, ABC[0], finish="length")
    assert [type(event) for event in ready_events(stream)] == [Delta, Completed]
    assert len(world.ended) == 1


async def test_a_rejection_is_the_requests_error(world: World) -> None:
    stream = world.lifecycle.submit(make_request(n=2))
    world.lifecycle.receive(0, 1, Rejected(id="r:0", attempt=9, message="old"))
    assert ready_events(stream) == []
    world.lifecycle.receive(0, 1, Rejected(id="r:0", attempt=1, message="too long"))
    with pytest.raises(InvalidRequest, match="too long"):
        await text_and_end(stream)
    assert ("r:1", 1) in world.engine.aborts
    world.assert_nothing_is_left()


async def test_a_stream_ends_where_the_context_of_a_smaller_engine_is_full(world: World) -> None:
    stream = world.lifecycle.submit(make_request(max_tokens=50))
    world.engine.say("r:0", 0, ABC[0])
    world.engine.lose()
    engine = world.restart()
    engine.say("r:0", 1, ABC[1], attempt=2, finish="length")
    deltas = [event for event in ready_events(stream) if isinstance(event, Delta)]
    assert ("".join(delta.text for delta in deltas), deltas[-1].finish_reason) == ("ab", "length")
    assert world.ended[-1].generated_tokens == 2
    world.assert_nothing_is_left()


async def test_a_stream_that_was_just_as_long_as_the_smaller_context_ends_without_another_token(world: World) -> None:
    stream = world.lifecycle.submit(make_request(max_tokens=50))
    world.engine.say("r:0", 0, ABC[0])
    world.engine.lose()
    world.restart().say("r:0", 1, attempt=2, finish="length")
    text, reason, completed = await text_and_end(stream)
    assert (text, reason, completed.usage.completion_tokens) == ("a", "length", 1)
    world.assert_nothing_is_left()


async def test_an_engine_without_room_for_what_was_accepted_is_not_the_clients_fault(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.say("r:0", 0, ABC[0])
    world.engine.lose()
    world.restart()
    world.lifecycle.receive(0, 2, Rejected(id="r:0", attempt=2, message="longest context is 3", no_room=True))
    with pytest.raises(NoRoom, match="longest context is 3") as caught:
        await text_and_end(stream)
    assert caught.value.status == 503 and caught.value.code == "context_too_small"
    world.assert_nothing_is_left()


async def test_a_choice_that_the_engine_cannot_go_on_with_fails_its_request_after_what_it_had(world: World) -> None:
    bad, good = world.lifecycle.submit(make_request("bad", n=2)), world.lifecycle.submit(make_request("good"))
    world.engine.say("bad:1", 0, ABC[0], failure="no finite score")
    assert [event.text for event in ready_events(bad) if isinstance(event, Delta)] == ["a"]
    with pytest.raises(InternalError, match="no finite score"):
        await anext(bad)
    assert ("bad:0", 1) in world.engine.aborts
    assert world.lifecycle._state.choices.keys() == {"good:0"}
    good.cancel()
    world.assert_nothing_is_left()


async def test_an_end_that_the_tokens_hold_beats_the_engines_failure(world: World) -> None:
    stream = world.lifecycle.submit(make_request(stop=("bc",)))
    world.engine.say("r:0", 0, *ABC[:4], failure="no finite score")
    assert await text_and_end(stream) == ("a", "stop", Completed(Usage(3, 3, 0)))


async def test_a_fault_in_one_choice_does_not_reach_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = world.lifecycle.submit(make_request("bad")), world.lifecycle.submit(make_request("good"))
    world.lifecycle._state.choices["bad:0"].fold = type("Broken", (), {"num_tokens": 0, "feed": None})()
    world.engine.step(*(Tokens(id=f"{name}:0", attempt=1, at=0, ids=[ABC[0]]) for name in ("bad", "good")))
    with pytest.raises(InternalError):
        await text_and_end(bad)
    assert [event.text for event in ready_events(good) if isinstance(event, Delta)] == ["a"]
    assert "request bad failed" in caplog.text


# --- abort -------------------------------------------------------------------------------------------------------


async def test_cancel_tells_the_engine_at_once_and_repeats_are_nothing(world: World) -> None:
    stream = world.lifecycle.submit(make_request(n=2))
    world.engine.say("r:0", 0, ABC[0], finish="length")
    stream.cancel()
    assert world.engine.aborts == [("r:1", 1)]
    stream.cancel()
    world.engine.say("r:1", 0, ABC[0])
    assert world.engine.aborts == [("r:1", 1)]
    events = await anext(stream)
    assert {event.index: event.finish_reason for event in events if isinstance(event, Delta)} == {
        0: "length",
        1: "abort",
    }
    assert isinstance(events[-1], Completed)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert len(world.ended) == 1
    world.assert_nothing_is_left()


async def test_a_cancelled_pending_choice_is_never_started(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.lose()
    stream.cancel()
    assert world.restart().sent == []
    world.assert_nothing_is_left()


async def test_a_reader_that_never_reads_holds_up_nobody(world: World) -> None:
    silent = world.lifecycle.submit(make_request("silent", max_tokens=50))
    for at in range(50):
        world.engine.say("silent:0", at, ABC[at % 8])
    assert len(world.ended) == 1
    events = await anext(silent)
    assert [type(event) for event in events] == [Delta, Completed]
    assert events[0].text == "abcdefgh" * 6 + "ab"


def test_request_without_eos_ignores_it(world: World) -> None:
    """``ignore_eos`` leaves the model's own stop tokens out of the parameters; here they are only text to skip."""
    stream = world.lifecycle.submit(replace(make_request(stop_token_ids=())))
    world.engine.say("r:0", 0, ABC[0], EOS, ABC[1])
    assert [event.text for event in ready_events(stream) if isinstance(event, Delta)] == ["ab"]


BARRED = [
    (NOTHING_LEFT, {"allowed_token_ids": (3,), "bad_words": ((4,),)}, "allowed_token_ids"),
    (NOTHING_LEFT, {"bad_words": ((4,),)}, "bad_words"),
    (NOTHING_LEFT, {}, "response_format"),
    ("It has too many states.", {"allowed_token_ids": (3,)}, "response_format"),
]


@pytest.mark.parametrize(("refusal", "params", "param"), BARRED)
async def test_what_cannot_go_on_names_the_field_that_bars_it(
    world: World, refusal: str, params: dict[str, object], param: str
) -> None:
    form = {"grammar": Grammar("regex", "a"), "form_param": "response_format"}
    stream = world.lifecycle.submit(replace(make_request(**params), **form))
    world.engine.step(Tokens(id="r:0", attempt=1, at=0, ids=[], refusal=refusal))
    with pytest.raises(InvalidRequest) as raised:
        ready_events(stream)
    assert (raised.value.param, raised.value.code, raised.value.message) == (param, "cannot_continue", refusal)


def test_without_a_form_what_cannot_go_on_may_be_for_min_tokens() -> None:
    assert make_request(min_tokens=2).param_of(NOTHING_LEFT) == "min_tokens"
    assert make_request().param_of(NOTHING_LEFT) is None
