"""However often a connection breaks and wherever, the parts join to what an unbroken stream says."""

from __future__ import annotations

import asyncio
from typing import Any

import tokenizers_for_tests as families
from engine_for_tests import EOS, INFO, FakeEngine, Records, ids_of, make_request, ready_events
from hypothesis import given
from hypothesis import strategies as st
from resume_for_tests import KEY, Client, FakeDurable, Joined, SteppedClock, events_of, form_of

from engine.messages import TokenLogprobs
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.parser import Parsing
from gateway.completion.streams import Streams
from gateway.protocol.answer import AnswerOptions
from observability.records import ChoiceStats

CALL = '<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>'
PARSED = (f"<think>so é</think>yes {CALL}", f"{CALL}\n{CALL}", "<think>abd", "plain <tool", f"no{CALL[:30]}")
TEXTS = ("", "a", "hello world", "naïve €5 😀 yes", "stop here", "abcabcabd", "ééé")


PARSING = Parsing(tool_format="hermes", reasoning_format="think")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    n, prompts = draw(st.integers(1, 3)), draw(st.sampled_from([([5, 6, 7],), ([5], [6, 7])]))
    chat = draw(st.booleans())
    prompts = prompts[:1] if chat else prompts
    logprobs = draw(st.booleans())
    echo = draw(st.booleans()) and not chat
    parsing = draw(st.sampled_from([None, PARSING])) if chat else None
    choices = []
    for _ in range(n * len(prompts)):
        ids = ids_of(draw(st.sampled_from(PARSED if parsing else TEXTS)) + draw(st.text("abé😀 .", max_size=6)))
        choices.append([*ids, EOS])
    return {
        "kind": "chat.completion.chunk" if chat else "text_completion",
        "n": n,
        "prompts": prompts,
        "stop": draw(st.sampled_from([(), ("abd",), ("here", "world"), ("😀",)])),
        "logprobs": logprobs,
        "echo": echo,
        "parsing": parsing,
        "token_ids": draw(st.booleans()),
        "choices": choices,
        "order": draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=40)),
    }


def options_of(case: dict[str, Any]) -> AnswerOptions:
    return AnswerOptions(
        prompts=case["prompts"],
        n=case["n"],
        logprobs=case["logprobs"],
        token_ids=case["token_ids"],
        usage=True,
        continues_prompt=case["kind"] == "text_completion",
        echo=tuple("prompt" for _ in case["prompts"]) if case["echo"] else None,
    )


class World:
    """A gateway process, and an engine that says the tokens of the case bit by bit."""

    def __init__(self, case: dict[str, Any], journal: FakeDurable | None = None) -> None:
        self.case = case
        self.clock = SteppedClock()
        self.journal = journal
        self.lifecycle = Lifecycle(families.byte_level(), record=Records(), clock=self.clock)
        self.streams = Streams(
            self.lifecycle,
            families.byte_level(),
            clock=self.clock,
            journal=journal,  # type: ignore[arg-type]
        )
        self.streams.open_journal()
        self.engine = FakeEngine(self.lifecycle, info=INFO)
        self.streams.ready()
        self.said: dict[str, int] = {}
        self.request = make_request(
            prompts=case["prompts"],
            n=case["n"],
            stop=case["stop"],
            parsing=case["parsing"],
            logprobs=0 if case["logprobs"] else None,
            prompt_logprobs=0 if case["logprobs"] and case["echo"] else None,
        )

    def say(self, index: int, count: int) -> None:
        name, ids = f"r:{index}", self.case["choices"][index]
        if all(start.id != name for start in self.engine.starts):
            return
        prefix = len(self.engine.start(name).output_prefix)
        at = self.said.setdefault(name, prefix)
        piece = ids[at : at + count]
        if not piece:
            return
        self.said[name] += len(piece)
        scores = [TokenLogprobs(-float(at + n), 1, [], []) for n in range(len(piece))]
        prompt = self.case["prompts"][index // self.case["n"]]
        scored = self.engine.start(name).params.prompt_logprobs is not None and at == prefix
        self.engine.say(
            name,
            at,
            *piece,
            finish="stop" if self.said[name] == len(ids) else None,
            logprobs=scores if self.case["logprobs"] else None,
            prompt_logprobs=[TokenLogprobs(-9.0, 1, [], [])] * (len(prompt) - 1) if scored else None,
            stats=ChoiceStats(queue_time=0, prefill_time=0, cached_tokens=prefix) if at == prefix else None,
        )

    def say_all(self) -> None:
        for index, ids in enumerate(self.case["choices"]):
            self.say(index, len(ids))
        self.commit(None)

    def commit(self, most: int | None) -> None:
        if self.journal is not None:
            self.journal.commit(most)


def unbroken(case: dict[str, Any]) -> Joined:
    world = World(case)
    stream = world.lifecycle.submit(world.request)
    answer = form_of(options_of(case), kind=case["kind"]).answer(case["prompts"], families.byte_level())
    joined, frames = Joined(), answer.opening()
    world.say_all()
    while events := ready_events(stream):
        frames += answer.feed(events)
    for _, data in events_of(frames):
        joined.feed(data)
    return joined


@given(case=cases(), data=st.data())
def test_any_cuts_join_to_the_same(case: dict[str, Any], data: st.DataObject) -> None:
    async def run() -> None:
        world = World(case)
        form = form_of(options_of(case), kind=case["kind"], mode=data.draw(st.sampled_from(["body", "sse"])))
        recording = world.streams.submit(world.request, key=KEY, form=form.encode(), on_end=lambda: None)
        client = Client(world.streams, recording)
        client.connect()
        for index, count in case["order"]:
            match data.draw(st.sampled_from(["say", "say", "read", "cut"])):
                case "say":
                    world.say(index % len(case["choices"]), count)
                case "read":
                    client.read(data.draw(st.integers(0, 3)))
                case "cut":
                    client.read(data.draw(st.integers(0, 3)))
                    if not client.done:
                        client.lose()
                        client.connect(data.draw(st.sampled_from([None, "body", "sse"])))
        world.say_all()
        while not client.done:
            client.read(data.draw(st.integers(1, 4)))
            if not client.done and data.draw(st.booleans()):
                client.lose()
                client.connect()
        assert client.joined == unbroken(case)
        assert all(len(reasons) == 1 for reasons in client.joined.finishes.values())
        assert len(client.joined.usages) == client.joined.ends == 1
        client.lose()
        await world.streams.close()

    asyncio.run(run())


@given(case=cases(), data=st.data())
def test_any_deaths_of_the_gateway_join_to_the_same(case: dict[str, Any], data: st.DataObject) -> None:
    """What was not committed is lost with it, and the engines too; nothing of that had been sent."""

    async def run() -> None:
        world = World(case, FakeDurable())
        form = form_of(options_of(case), kind=case["kind"])
        recording = world.streams.submit(world.request, key=KEY, form=form.encode(), on_end=lambda: None)
        world.commit(1)
        assert recording._saved.is_set()
        client = Client(world.streams, recording)
        client.connect()
        for index, count in case["order"]:
            match data.draw(st.sampled_from(["say", "say", "commit", "read", "die"])):
                case "say":
                    world.say(index % len(case["choices"]), count)
                case "commit":
                    world.commit(count)
                case "read":
                    client.read(data.draw(st.integers(0, 3)))
                case "die":
                    client.read(data.draw(st.integers(0, 2)))
                    world = World(case, FakeDurable(world.journal))
                    client.streams = world.streams
                    if not client.done:
                        client.connect()
        world.say_all()
        if not client.done:
            client.read()
        assert client.joined == unbroken(case)
        assert client.done
        await world.streams.close()

    asyncio.run(run())
