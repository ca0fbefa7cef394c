"""The engine's loop over a transport that is a list."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from scheduler_harness import Harness

from engine.block_pool import IntegrityError
from engine.messages import (
    Abort,
    CacheEvents,
    Drain,
    FromEngine,
    Idle,
    Look,
    PoolPicture,
    Rejected,
    ResetCache,
    Start,
    StepOutput,
    ToEngine,
)
from engine.outbox import Outbox
from engine.process import EngineLoop
from engine.sampling_params import SamplingParams
from observability.records import EngineState, StepStats


def frame(*steps: int) -> StepOutput:
    """That of a ``CountingEngine``."""
    state = EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8)
    zero = dict.fromkeys(("scheduled_tokens", "prompt_tokens", "generated_tokens", "preemptions"), 0)
    none = {"prefix_queries": 0, "prefix_hits": 0}
    stats = [StepStats(step=step, duration=0.001, state=state, **zero, **none) for step in steps]
    return StepOutput(started=[], outputs=[], stats=stats)


class Script:
    """Hands out what was prepared for each call of ``receive`` between two steps; drains after that.

    ``during``: what arrives while the first step is computed, the second, ….
    """

    def __init__(self, *turns: list[ToEngine], during: tuple[list[ToEngine], ...] = ()) -> None:
        self.turns = [*turns, [Drain()]]
        self.during = list(during)
        self.waited: list[bool] = []
        self.sent: list[FromEngine] = []

    def send(self, message: FromEngine) -> None:
        self.sent.append(message)

    def receive(self, *, wait: bool) -> list[ToEngine]:
        if threading.current_thread() is not threading.main_thread():
            assert not wait
            return self.during.pop(0) if self.during else []
        self.waited.append(wait)
        return self.turns.pop(0) if self.turns else []


class CountingEngine:
    """Two steps for each choice; refuses the id "bad"; counts what it is asked."""

    def __init__(self) -> None:
        self.work: dict[str, int] = {}
        self.checks = self.looks = self.steps = self.prepared = self.chores = 0
        self.computed: list[str] = []

    @property
    def num_pending(self) -> int:
        return len(self.work)

    @property
    def is_busy(self) -> bool:
        return bool(self.work)

    @property
    def state(self) -> EngineState:
        return EngineState(running=len(self.work), waiting=0, blocks_used=len(self.work), blocks_total=8)

    def cache_events(self) -> None:
        return None

    def start(self, start: Start) -> Rejected | None:
        if start.id == "bad":
            return Rejected(id=start.id, attempt=start.attempt, message="no")
        self.work[start.id] = 2
        return None

    def abort(self, abort: Abort) -> None:
        self.work.pop(abort.id, None)

    def begin(self) -> None:
        assert self.work and not self.computed
        self.steps += 1
        self.computed = list(self.work)

    def compute(self) -> None:
        assert self.computed and threading.current_thread() is threading.main_thread()

    def prepare(self) -> None:
        assert self.computed and threading.current_thread() is not threading.main_thread()
        self.prepared += 1

    def finish(self) -> StepOutput:
        assert self.computed and self.prepared == self.steps
        self.work = {name: left - (name in self.computed) for name, left in self.work.items()}
        self.work = {name: left for name, left in self.work.items() if left}
        self.computed = []
        return frame(self.steps)

    def use_idle_time(self) -> bool:
        self.chores -= 1
        return self.chores > 0

    def check_executor(self) -> None:
        assert not self.work
        self.looks += 1

    def check_integrity(self) -> None:
        assert self.chores <= 0
        self.checks += 1


def start(name: str) -> Start:
    return Start(id=name, attempt=0, prompt=[1], params=SamplingParams(max_tokens=2), seed=0)


def loop(engine: CountingEngine, script: Script, interval: float = 0.0) -> EngineLoop:
    return EngineLoop(engine, script, Outbox(interval, time.monotonic))


def run(*turns: list[ToEngine], during: tuple[list[ToEngine], ...] = ()) -> tuple[CountingEngine, Script]:
    engine, script = CountingEngine(), Script(*turns, during=during)
    loop(engine, script).run()
    return engine, script


def test_it_waits_only_when_there_is_nothing_to_do() -> None:
    _, script = run([], [start("a")], [], [], [], [start("b")])
    assert script.sent == [frame(1), frame(2), frame(3), frame(4)]
    assert script.waited == [False, True, False, False, True, True, False]


def test_idle_time_is_used_until_a_message_comes() -> None:
    engine, script = CountingEngine(), Script([], [], [start("a")], [], [], [], [])
    engine.chores = 4
    loop(engine, script).run()
    assert script.sent == [frame(1), frame(2)]
    assert script.waited == [False, False, False, False, False, False, True, True]
    assert engine.chores == 0 and engine.checks == 1


def test_messages_are_taken_in_before_a_step() -> None:
    _, script = run([start("a"), start("b")], [Abort(id="a", attempt=0), Abort(id="b", attempt=0)])
    assert script.sent[0] == frame(1) and len(script.sent) == 2


def test_the_state_is_told_when_an_abort_leaves_nothing_to_step() -> None:
    _, script = run([start("a")], [Abort(id="a", attempt=0)], [], [start("b")])
    assert script.sent[:2] == [frame(1), Idle(state=EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8))]
    assert script.sent[2:] == [frame(2), frame(3)]


def test_messages_are_taken_in_during_a_step() -> None:
    engine, script = run([start("a")], during=([start("b"), start("bad")], [Abort(id="b", attempt=0)]))
    assert script.sent == [Rejected(id="bad", attempt=0, message="no"), frame(1), frame(2)]
    assert engine.steps == 2


def test_an_abort_during_a_step_that_leaves_nothing_is_told_by_that_step() -> None:
    _, script = run([start("a")], during=([Abort(id="a", attempt=0)],))
    assert script.sent == [frame(1)]


def test_a_step_s_output_is_sent_while_the_next_one_is_computed() -> None:
    class Watching(CountingEngine):
        def begin(self) -> None:
            super().begin()
            sent.append(len(script.sent))

    sent: list[int] = []
    script = Script([start("a")])
    loop(Watching(), script).run()
    assert sent == [0, 0] and script.sent == [frame(1), frame(2)]


def test_what_is_held_is_sent_when_no_step_follows() -> None:
    # At 0 the outbox is made; the first step's output is due at 1, and all that follows within 100 seconds is held.
    clock = itertools.chain([0.0, 1.0], itertools.count(1.001, 0.001))
    script = Script([start("a")], [], [start("b")], [], [start("c")], [Abort(id="c", attempt=0)])
    EngineLoop(CountingEngine(), script, Outbox(1.0, lambda: next(clock))).run()
    idle = Idle(state=EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8))
    assert script.sent == [frame(1), frame(2), frame(3, 4), frame(5), idle]


def test_changes_of_the_cache_are_told_of_before_the_step_that_made_them() -> None:
    class Caching(CountingEngine):
        changes: CacheEvents | None = None

        def finish(self) -> StepOutput:
            self.changes = CacheEvents(stored=[b"%d" % self.steps], evicted=[])
            return super().finish()

        def cache_events(self) -> CacheEvents | None:
            changes, self.changes = self.changes, None
            return changes

    script = Script([start("a")])
    loop(Caching(), script).run()
    first, second = (CacheEvents(stored=[name], evicted=[]) for name in (b"1", b"2"))
    assert script.sent == [first, frame(1), second, frame(2)]


def test_a_reset_of_the_cache_is_told_of_at_once() -> None:
    class Caching(CountingEngine):
        changes: CacheEvents | None = None

        def reset_cache(self) -> None:
            self.changes = CacheEvents(stored=[], evicted=[b"all"])

        def cache_events(self) -> CacheEvents | None:
            changes, self.changes = self.changes, None
            return changes

    script = Script([ResetCache()])
    loop(Caching(), script).run()
    assert script.sent == [CacheEvents(stored=[], evicted=[b"all"])]


def test_who_looks_is_answered_at_once_also_in_mid_step() -> None:
    class Drawn(CountingEngine):
        def picture(self, cells: int) -> PoolPicture:
            return PoolPicture(state=self.state, stride=cells, cells=b"", sequences=[])

    script = Script([Look(cells=1)], [start("a")], during=([Look(cells=2)],))
    loop(Drawn(), script).run()
    pictures = [(at, said) for at, said in enumerate(script.sent) if isinstance(said, PoolPicture)]
    assert [(at, picture.stride, picture.state.running) for at, picture in pictures] == [(0, 1, 0), (1, 2, 1)]


def test_a_fault_in_a_step_comes_after_what_the_other_thread_was_at() -> None:
    class Faulty(CountingEngine):
        def compute(self) -> None:
            if self.steps == 2:
                raise ValueError("a kernel has failed")

    engine, script = Faulty(), Script([start("a")])
    with pytest.raises(ValueError, match="a kernel has failed"):
        loop(engine, script).run()
    assert script.sent == [frame(1)] and engine.prepared == 2


def test_a_fault_of_the_other_thread_ends_the_loop() -> None:
    class Faulty(CountingEngine):
        def prepare(self) -> None:
            raise ValueError("a block has been lost")

    with pytest.raises(ValueError, match="a block has been lost"):
        loop(Faulty(), Script([start("a")])).run()


def test_a_refusal_is_sent() -> None:
    _, script = run([start("bad")])
    assert script.sent == [Rejected(id="bad", attempt=0, message="no")]


def test_the_pool_is_checked_once_in_each_idle_time_and_never_at_work() -> None:
    assert run([start("a")], [])[0].checks == 0
    assert run([start("a")], [], [], [], [])[0].checks == 1
    assert run([start("a")], [], [], [], [start("b")], [], [], [])[0].checks == 2


def test_the_executor_is_looked_after_in_all_of_an_idle_time() -> None:
    assert run([start("a")], [])[0].looks == 0
    assert run([start("a")], [], [], [], [])[0].looks == 2


def test_a_leak_ends_the_loop() -> None:
    h = Harness()
    engine = CountingEngine()
    engine.check_integrity = h.scheduler.check_integrity
    h.pool.allocate(1)
    with pytest.raises(IntegrityError, match="has 1 references and is in 0 block tables"):
        loop(engine, Script([], [])).run()


def test_a_start_says_whether_tokens_may_wait() -> None:
    outbox = Outbox(1.0, time.monotonic)
    seen: list[bool] = []

    class Watching(CountingEngine):
        def begin(self) -> None:
            super().begin()
            seen.append(outbox.hurried)

    hurried = Start(id="b", attempt=0, prompt=[1], params=SamplingParams(max_tokens=2), seed=0, at_once=True)
    EngineLoop(Watching(), Script([start("a")], [], [hurried], [], [start("c")]), outbox).run()
    assert seen == [False, False, True, True, False, False]
