"""Outbox: whatever it joins, and whenever it is asked, nothing is lost, changed or late."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from engine.messages import StepOutput, TokenLogprobs, Tokens
from engine.outbox import Outbox
from observability.records import ChoiceStats, EngineState, StepStats

FIRST = ChoiceStats(queue_time=0.0, prefill_time=0.0, cached_tokens=0)
INTERVAL = 0.020


class ManualClock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def stats(step: int, duration: float = 0.001) -> StepStats:
    return StepStats(
        step=step,
        duration=duration,
        scheduled_tokens=1,
        prompt_tokens=0,
        generated_tokens=1,
        preemptions=0,
        prefix_queries=0,
        prefix_hits=0,
        state=EngineState(running=1, waiting=0, blocks_used=1, blocks_total=8),
    )


def score(value: int) -> TokenLogprobs:
    return TokenLogprobs(logprob=-float(value), rank=1, top_ids=[], top_logprobs=[])


class Source:
    """Choices that each say one token a step, as an engine would."""

    def __init__(self, outbox: Outbox, clock: ManualClock) -> None:
        self.outbox, self.clock = outbox, clock
        self.steps = 0
        self.said: dict[tuple[str, int], list[int]] = defaultdict(list)

    def token(self, name: str, *, attempt: int = 0, finish: str | None = None, scored: bool = False) -> Tokens:
        said = self.said[name, attempt]
        said.append(100 * self.steps + len(said))
        return Tokens(
            id=name,
            attempt=attempt,
            at=len(said) - 1,
            ids=said[-1:],
            logprobs=[score(said[-1])] if scored else None,
            prompt_logprobs=[score(7)] if scored and len(said) == 1 else None,
            finish=finish,
            stats=FIRST if len(said) == 1 else None,
        )

    def step(self, *outputs: Tokens, duration: float = 0.001, started: tuple[str, ...] = ()) -> StepOutput | None:
        self.clock.time += duration
        self.outbox.add(StepOutput(started=list(started), outputs=list(outputs), stats=[stats(self.steps, duration)]))
        self.steps += 1
        return self.outbox.due()


def make(interval: float = INTERVAL) -> Source:
    clock = ManualClock()
    return Source(Outbox(interval, clock), clock)


def shown(frame: StepOutput | None) -> list[tuple[str, int, int]] | None:
    """(id, at, number of tokens) of each output."""
    return None if frame is None else [(output.id, output.at, len(output.ids)) for output in frame.outputs]


def test_tokens_wait_for_those_of_the_next_steps_for_as_many_steps_as_come_nearest_to_the_interval() -> None:
    source = make()
    assert shown(source.step(source.token("a"))) == [("a", 0, 1)]
    source.clock.time += 1.0
    assert shown(source.step(source.token("a"), duration=0.004)) == [("a", 1, 1)]
    for milliseconds in (4, 8, 12, 16):
        assert source.step(source.token("a"), duration=0.004) is None, milliseconds
    frame = source.step(source.token("a"), duration=0.0035)
    assert shown(frame) == [("a", 2, 5)]
    assert [s.step for s in frame.stats] == [2, 3, 4, 5, 6]


def test_steps_that_take_long_are_sent_one_by_one() -> None:
    source = make()
    source.step(source.token("a"))
    for at in range(1, 5):
        assert shown(source.step(source.token("a"), duration=0.0135)) == [("a", at, 1)]


def test_an_interval_of_zero_sends_every_step() -> None:
    source = make(0.0)
    for at in range(5):
        assert shown(source.step(source.token("a"), duration=0.0001)) == [("a", at, 1)]


def busy() -> Source:
    """Two choices have begun, and what they said is sent."""
    source = make()
    source.step(source.token("a"), source.token("b"))
    source.outbox.flush()
    return source


def test_a_first_token_does_not_wait_and_takes_nobody_along() -> None:
    source = busy()
    assert source.step(source.token("a"), source.token("b")) is None
    frame = source.step(source.token("a"), source.token("new"), started=("new", "soon"))
    assert shown(frame) == [("new", 0, 1)]
    assert frame.started == ["new", "soon"] and [s.step for s in frame.stats] == [1, 2]
    assert shown(source.outbox.flush()) == [("a", 1, 2), ("b", 1, 1)]


def test_a_last_token_does_not_wait_nor_do_those_before_it() -> None:
    source = busy()
    source.step(source.token("a"), source.token("b"))
    frame = source.step(source.token("b"), source.token("a", finish="stop"))
    assert shown(frame) == [("a", 1, 2)] and frame.outputs[0].finish == "stop"
    assert shown(source.outbox.flush()) == [("b", 1, 2)]


def test_attempts_are_not_mixed() -> None:
    source = busy()
    source.step(source.token("a"))
    source.step(source.token("a", attempt=1))
    source.step(source.token("a", attempt=1))
    frame = source.outbox.flush()
    assert [(output.attempt, output.at, len(output.ids)) for output in frame.outputs] == [(0, 1, 1), (1, 1, 1)]


def test_scores_stay_with_their_tokens() -> None:
    source = busy()
    for _ in range(3):
        source.step(source.token("a", scored=True))
    (output,) = source.outbox.flush().outputs
    assert output.logprobs == [score(token_id) for token_id in output.ids] and len(output.ids) == 3


def test_nothing_is_sent_twice_and_nothing_is_no_frame() -> None:
    source = busy()
    assert source.outbox.flush() is None and source.outbox.due() is None
    source.step(source.token("a"))
    assert source.outbox.flush() is not None
    assert source.outbox.flush() is None


def test_the_last_of_the_tokens_may_bring_no_token() -> None:
    source = busy()
    source.step(source.token("a"))
    end = Tokens(id="a", attempt=0, at=2, ids=[], finish="length")
    (output,) = source.step(end).outputs
    assert (output.at, len(output.ids), output.logprobs, output.finish) == (1, 1, None, "length")


lives = st.lists(
    st.tuples(
        st.sampled_from([0.0005, 0.001, 0.001, 0.003, 0.008, 0.015, 0.05]),
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.integers(0, 1), st.sampled_from([False] * 6 + [True])),
            max_size=4,
            unique_by=lambda x: x[0],
        ),
        st.sampled_from([False] * 9 + [True]),
    ),
    max_size=40,
)
"""Steps: seconds, who says a token in which attempt and whether it is the last, and whether nothing follows for now."""


@given(lives, st.sampled_from([0.0, 0.005, INTERVAL]))
def test_whatever_is_joined_nothing_is_lost_changed_or_late(steps, interval: float) -> None:
    source = make(interval)
    ended: set[tuple[str, int]] = set()
    produced: dict[tuple[str, int], list[Tokens]] = defaultdict(list)
    received: dict[tuple[str, int], list[Tokens]] = defaultdict(list)
    waiting: dict[tuple[str, int], float] = {}
    seen: list[int] = []
    started: list[str] = []

    def take(frame: StepOutput | None) -> None:
        if frame is None:
            return
        assert frame.outputs or frame.stats
        seen.extend(s.step for s in frame.stats)
        started.extend(frame.started)
        keys = [(output.id, output.attempt) for output in frame.outputs]
        assert len(set(keys)) == len(keys)
        for key, output in zip(keys, frame.outputs, strict=True):
            received[key].append(output)
            waiting.pop(key, None)

    for number, (duration, said, pause) in enumerate(steps):
        outputs = []
        for name, attempt, last in said:
            if (name, attempt) not in ended:
                scored = name in "ab"
                output = source.token(name, attempt=attempt, finish="stop" if last else None, scored=scored)
                produced[name, attempt].append(output)
                outputs.append(output)
                ended |= {(name, attempt)} if last else set()
        for output in outputs:
            waiting.setdefault((output.id, output.attempt), source.clock.time + duration)
        take(source.step(*outputs, duration=duration, started=(f"s{number}",)))
        for output in outputs:
            if output.stats is not None or output.finish is not None:
                assert (output.id, output.attempt) not in waiting
        for since in waiting.values():
            assert source.clock.time - since < interval
        if pause:
            take(source.outbox.flush())
            assert not waiting
            source.clock.time += 0.01
    take(source.outbox.flush())
    assert seen == list(range(len(steps))) and started == [f"s{number}" for number in range(len(steps))]
    assert set(received) == set(produced)
    for key, parts in received.items():
        one_by_one = produced[key]
        at = 0
        for part in parts:
            assert part.at == at
            at += len(part.ids)
        assert [token for part in parts for token in part.ids] == source.said[key]
        scores = [s for part in parts for s in part.logprobs or []]
        assert scores == [s for output in one_by_one for s in output.logprobs or []]
        assert [part.logprobs is None for part in parts] == [one_by_one[0].logprobs is None] * len(parts)
        assert parts[0].prompt_logprobs == one_by_one[0].prompt_logprobs and parts[0].stats == FIRST
        assert [part.finish for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1].finish == one_by_one[-1].finish


def test_a_failure_waits_for_nothing_and_brings_what_was_held() -> None:
    clock = ManualClock()
    outbox = Outbox(INTERVAL, clock)
    source = Source(outbox, clock)
    source.step(source.token("a"))
    assert source.step(source.token("a")) is None
    failed = Tokens(id="a", attempt=0, at=2, ids=[], failure="NaN")
    (sent,) = source.step(failed).outputs
    assert (sent.at, len(sent.ids), sent.failure) == (1, 1, "NaN")


def test_in_a_hurry_nothing_waits() -> None:
    clock = ManualClock()
    outbox = Outbox(INTERVAL, clock)
    source = Source(outbox, clock)
    assert source.step(source.token("a")) is not None
    assert source.step(source.token("a")) is None
    outbox.hurried = True
    assert [len(source.step(source.token("a")).outputs[0].ids) for _ in range(3)] == [2, 1, 1]
