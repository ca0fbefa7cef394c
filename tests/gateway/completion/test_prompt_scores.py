"""One choice scores a prompt for all its siblings, wherever they are and whatever becomes of their engines."""

from __future__ import annotations

import asyncio
import random

import tokenizers_for_tests as families
from engine_for_tests import FakeEngine, ManualClock, Records, ids_of, make_request, ready_events
from hypothesis import given
from hypothesis import strategies as st

from engine.messages import Start, TokenLogprobs
from gateway.completion.events import Completed, Delta, PromptScored
from gateway.completion.lifecycle import Lifecycle
from gateway.replicas.router import Router

PROMPTS = ([5, 6, 7], [8])
N = 3
OUTPUT = ids_of("abc")


class World:
    """Two replicas; their engines do what they were told of one request, when a test says so."""

    def __init__(self, seed: int) -> None:
        self.lifecycle = Lifecycle(
            families.byte_level(),
            record=Records(),
            clock=ManualClock(),
            router=Router("random", rng=random.Random(seed)),
            replicas=2,
        )
        self.engines: list[FakeEngine | None] = [FakeEngine(self.lifecycle, replica=replica) for replica in (0, 1)]
        self.epochs = [1, 1]
        self.said: dict[tuple[str, int], int] = {}
        """Of each attempt: tokens of the output so far."""
        request = make_request(prompts=PROMPTS, n=N, max_tokens=len(OUTPUT), prompt_logprobs=0)
        self.stream = self.lifecycle.submit(request)

    def turn(self, replica: int) -> None:
        """It is lost, or comes up again."""
        engine = self.engines[replica]
        if engine is not None:
            self.engines[replica] = None
            engine.lose()
        else:
            self.epochs[replica] += 1
            self.engines[replica] = FakeEngine(self.lifecycle, replica=replica, epoch=self.epochs[replica])

    def running(self) -> dict[str, tuple[FakeEngine, Start]]:
        incarnations = self.lifecycle._placement._incarnations
        return {
            name: (engine, engine.start(name))
            for engine in self.engines
            if engine is not None
            for name in incarnations[engine.replica].running
        }

    def say(self, name: str) -> None:
        """The choice's next token, if it runs."""
        if (found := self.running().get(name)) is None:
            return
        engine, start = found
        key, held = (name, start.attempt), len(start.output_prefix)
        at = self.said.setdefault(key, held)
        self.said[key] += 1
        scored = at == held and start.params.prompt_logprobs is not None
        engine.say(
            name,
            at,
            OUTPUT[at],
            attempt=start.attempt,
            prompt_logprobs=[TokenLogprobs(-1.0, 1, [], [])] * (len(start.prompt) - 1) if scored else None,
            finish="length" if at + 1 == len(OUTPUT) else None,
        )


moves = st.one_of(
    st.tuples(st.just("say"), st.integers(0, N * len(PROMPTS) - 1)), st.tuples(st.just("turn"), st.integers(0, 1))
)


async def through(seed: int, course: list[tuple[str, int]]) -> None:
    world = World(seed)
    scored: set[int] = set()
    texts = [""] * (N * len(PROMPTS))
    completed = 0

    def read() -> None:
        nonlocal completed
        for event in ready_events(world.stream) if world.stream._pending else ():
            match event:
                case PromptScored(prompt_index, logprobs):
                    assert prompt_index not in scored and len(logprobs) == len(PROMPTS[prompt_index]) - 1
                    scored.add(prompt_index)
                case Delta():
                    assert event.index // N in scored
                    texts[event.index] += event.text
                case Completed():
                    completed += 1
        told = [start for _, start in world.running().values() if start.params.prompt_logprobs is not None]
        at_it = [prompt for start in told if (prompt := start.choice // N) not in scored]
        assert len(at_it) == len(set(at_it)), "nobody does what another is at"

    for what, which in course:
        if what == "say":
            world.say(f"r:{which}")
        else:
            world.turn(which)
        read()
    for replica, engine in enumerate(world.engines):
        if engine is None:
            world.turn(replica)
    for _ in OUTPUT:
        for index in range(len(texts)):
            world.say(f"r:{index}")
    read()
    assert (texts, completed) == (["abc"] * len(texts), 1)


@given(seed=st.integers(0, 9), course=st.lists(moves, max_size=30))
def test_scores_come_once_and_first_through_any_losses(seed: int, course: list[tuple[str, int]]) -> None:
    asyncio.run(through(seed, course))
