"""The engine's loop over a transport that is a list."""

from __future__ import annotations

import threading

import pytest

from engine.block_pool import IntegrityError
from engine.messages import Abort, Drain, FromEngine, Idle, Rejected, Start, ToEngine
from engine.process import EngineLoop
from engine.sampling_params import SamplingParams
from observability.records import EngineState


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
        self.checks = self.steps = self.prepared = 0
        self.computed: list[str] = []

    @property
    def num_pending(self) -> int:
        return len(self.work)

    @property
    def state(self) -> EngineState:
        return EngineState(running=len(self.work), waiting=0, blocks_used=len(self.work), blocks_total=8)

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

    def finish(self) -> str:
        assert self.computed and self.prepared == self.steps
        self.work = {name: left - (name in self.computed) for name, left in self.work.items()}
        self.work = {name: left for name, left in self.work.items() if left}
        self.computed = []
        return f"step {self.steps}"

    def check_integrity(self) -> None:
        self.checks += 1


def start(name: str) -> Start:
    return Start(id=name, attempt=0, prompt=[1], params=SamplingParams(max_tokens=2), seed=0)


def run(*turns: list[ToEngine], during: tuple[list[ToEngine], ...] = ()) -> tuple[CountingEngine, Script]:
    engine, script = CountingEngine(), Script(*turns, during=during)
    EngineLoop(engine, script).run()
    return engine, script


def test_it_waits_only_when_there_is_nothing_to_do() -> None:
    _, script = run([start("a")], [], [], [start("b")])
    assert script.sent == ["step 1", "step 2", "step 3", "step 4"]
    assert script.waited == [True, False, True, True, False]


def test_messages_are_taken_in_before_a_step() -> None:
    _, script = run([start("a"), start("b")], [Abort(id="a", attempt=0), Abort(id="b", attempt=0)])
    assert script.sent[0] == "step 1" and len(script.sent) == 2


def test_the_state_is_told_when_an_abort_leaves_nothing_to_step() -> None:
    _, script = run([start("a")], [Abort(id="a", attempt=0)], [], [start("b")])
    assert script.sent[:2] == ["step 1", Idle(state=EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8))]
    assert script.sent[2:] == ["step 2", "step 3"]


def test_messages_are_taken_in_during_a_step() -> None:
    engine, script = run([start("a")], during=([start("b"), start("bad")], [Abort(id="b", attempt=0)]))
    assert script.sent == [Rejected(id="bad", attempt=0, message="no"), "step 1", "step 2"]
    assert engine.steps == 2


def test_an_abort_during_a_step_that_leaves_nothing_is_told_by_that_step() -> None:
    _, script = run([start("a")], during=([Abort(id="a", attempt=0)],))
    assert script.sent == ["step 1"]


def test_a_step_s_output_is_sent_while_the_next_one_is_computed() -> None:
    class Watching(CountingEngine):
        def begin(self) -> None:
            super().begin()
            sent.append(len(script.sent))

    sent: list[int] = []
    script = Script([start("a")])
    EngineLoop(Watching(), script).run()
    assert sent == [0, 0] and script.sent == ["step 1", "step 2"]


def test_a_fault_in_a_step_comes_after_what_the_other_thread_was_at() -> None:
    class Faulty(CountingEngine):
        def compute(self) -> None:
            if self.steps == 2:
                raise ValueError("a kernel has failed")

    engine, script = Faulty(), Script([start("a")])
    with pytest.raises(ValueError, match="a kernel has failed"):
        EngineLoop(engine, script).run()
    assert script.sent == ["step 1"] and engine.prepared == 2


def test_a_fault_of_the_other_thread_ends_the_loop() -> None:
    class Faulty(CountingEngine):
        def prepare(self) -> None:
            raise ValueError("a block has been lost")

    with pytest.raises(ValueError, match="a block has been lost"):
        EngineLoop(Faulty(), Script([start("a")])).run()


def test_a_refusal_is_sent() -> None:
    _, script = run([start("bad")])
    assert script.sent == [Rejected(id="bad", attempt=0, message="no")]


def test_the_pool_is_checked_once_in_each_idle_time_and_never_at_work() -> None:
    assert run([start("a")], [])[0].checks == 0
    assert run([start("a")], [], [], [], [])[0].checks == 1
    assert run([start("a")], [], [], [], [start("b")], [], [], [])[0].checks == 2


def test_a_leak_ends_the_loop(harness) -> None:
    h = harness()
    engine = CountingEngine()
    engine.check_integrity = h.scheduler.check_integrity
    h.pool.allocate(1)
    with pytest.raises(IntegrityError, match="has 1 references and is in 0 block tables"):
        EngineLoop(engine, Script([])).run()
