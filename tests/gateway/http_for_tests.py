"""The application around a scripted lifecycle: what a request was turned into, and events that a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route
from tokenizers_for_tests import byte_level

import gateway.routes
from engine.grammar import Grammar
from engine.grammar_trial_messages import Trial
from engine.messages import EngineInfo, TokenLogprobs
from gateway.admission import Admission
from gateway.app import create_app
from gateway.chat_template import ChatTemplate
from gateway.completion.choice import ReplicaView
from gateway.completion.events import Completed, Delta, Event, FinishReason, OutputToken, PromptScored, Usage
from gateway.completion.request import Request
from gateway.completion.stream import Stream
from gateway.completion.streams import Streams
from gateway.errors import APIError, InvalidRequest
from gateway.prompt import Prompts
from gateway.state import AppState
from gateway.tokenizer import Tokenizer
from observability.records import Record

CONTEXT = 200
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'tool' and loop.first -%}
{{ raise_exception('a conversation cannot begin with a tool') }}
{%- endif -%}
<s>{{ message.role }}: {{ message.content }}{{ message.tool_calls | tojson if message.tool_calls }}</s>
{%- endfor -%}
{%- if add_generation_prompt -%}<s>assistant: {% if enable_thinking %}<think>{% endif %}{%- endif -%}
"""


def engine_info(tokenizer: Tokenizer) -> EngineInfo:
    return EngineInfo(
        device="cpu",
        dtype="float32",
        parameters=1,
        weight_bytes=4,
        max_model_len=CONTEXT,
        block_size=16,
        num_blocks=64,
        cache_bytes=1024,
        vocab_size=tokenizer.vocab_size,
        eos_token_ids=[1],
        fingerprint="fp_test",
        kernels={},
        load_seconds={},
    )


Step = list[Event] | APIError | Exception | float
"""Events that come at once, a failure, or a pause in seconds."""


def scored(token: int, *top: int) -> TokenLogprobs:
    """A log-probability of -1 for the token, and -1, -2 … for the likeliest."""
    return TokenLogprobs(-1.0, 1, list(top), [-1.0 - n for n in range(len(top))])


def say(
    tokenizer: Tokenizer, text: str, index: int = 0, *, finish: FinishReason = "stop", top: int | None = None
) -> list[Delta]:
    """One delta for each token of ``text``, and the finish."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    deltas = [
        Delta(
            index=index,
            text=tokenizer.decode([token], skip_special_tokens=True),
            tokens=[OutputToken(token, None if top is None else scored(token, *range(10, 10 + top)))],
            num_tokens=number,
        )
        for number, token in enumerate(ids, 1)
    ]
    return [*deltas, Delta(index=index, text="", tokens=[], finish_reason=finish, num_tokens=len(ids))]


def answer_hello(request: Request) -> Iterator[Step]:
    """``Hello there`` for every choice, interleaved, one event at a time."""
    tokenizer = byte_level()
    logprobs = request.params[0].logprobs
    if request.params[0].prompt_logprobs is not None:
        for number, prompt in enumerate(request.prompts):
            yield [PromptScored(number, [scored(token, 10, 11) for token in prompt[1:]])]
    choices = [say(tokenizer, "Hello there", index, top=logprobs) for index in range(request.num_choices)]
    for deltas in zip(*choices, strict=True):
        for delta in deltas:
            yield [delta]
    tokens = sum(len(delta.tokens) for deltas in choices for delta in deltas)
    yield [Completed(Usage(request.num_prompt_tokens, tokens, 3))]


@dataclass
class FakeLifecycle:
    """Answers every request by a script."""

    info: EngineInfo | None
    script: Callable[[Request], Iterator[Step]] = answer_hello
    ready: bool = True
    draining: bool = False
    replicas: tuple[int, int] = (2, 3)
    queued_requests: int = 0
    queued_tokens: int = 0
    refuse: APIError | None = None
    requests: list[Request] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    views: list[ReplicaView] = field(default_factory=lambda: [ReplicaView(0, 4, False, 2), ReplicaView(2, 1, False, 0)])
    resets: int = 0

    def replica_views(self) -> list[ReplicaView]:
        return self.views

    def drain_replica(self, replica: int) -> None:
        self.views = [replace(view, draining=view.draining or view.replica == replica) for view in self.views]

    def reset_prefix_caches(self) -> list[int]:
        self.resets += 1
        return [view.replica for view in self.views]

    @property
    def last(self) -> Request:
        return self.requests[-1]

    def submit(self, request: Request) -> Stream:
        if self.refuse is not None:
            raise self.refuse
        self.requests.append(request)
        running: asyncio.Task[None]

        def cancel() -> None:
            if not running.done():
                running.cancel()
                self.cancelled.append(request.id)

        stream = Stream(cancel)
        running = asyncio.get_running_loop().create_task(self._play(request, stream))
        self.tasks.append(running)
        return stream

    async def _play(self, request: Request, stream: Stream) -> None:
        for step in self.script(request):
            match step:
                case float():
                    await asyncio.sleep(step)
                case APIError():
                    return stream.fail(step)
                case Exception():
                    raise step
                case events:
                    for event in events:
                        stream.push(event)
                    await asyncio.sleep(0)
        return stream.close()


class FakeTrials:
    """Takes every grammar as it is, but for those that say ``refuse``."""

    async def accept(self, trial: Trial, param: str, info: EngineInfo, caller: str) -> Grammar:
        if "refuse" in trial.source:
            raise InvalidRequest(f"Invalid '{param}': refused.", param=param, code="invalid_grammar")
        grammar = Grammar("lark" if trial.kind == "ebnf" else trial.kind, trial.source)
        return grammar if trial.around is None else Grammar("lark", grammar.rule().join(trial.around))

    async def close(self) -> None:
        """There is nothing to end."""


@dataclass
class Server:
    """The application, what it is made of, and a client."""

    client: httpx.AsyncClient
    lifecycle: FakeLifecycle
    records: list[Record]
    state: AppState

    async def chat(self, content: str = "Hi", **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}]} | fields
        return await self.client.post("/v1/chat/completions", json=body)

    async def complete(self, prompt: Any = "Hi", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"prompt": prompt} | fields)


@cache
def _chat_template() -> ChatTemplate:
    """Compiling it takes longer than most tests."""
    return ChatTemplate(TEMPLATE, {"bos_token": "<s>"})


@cache
def _routes(folders: tuple[str, ...]) -> list[BaseRoute]:
    """Those of every application with routes from these folders.

    What FastAPI finds out of each, anew for every application, takes longer than most tests.
    """
    return create_app(make_state(FakeLifecycle(None), [])).router.routes


def application(state: AppState) -> FastAPI:
    """As ``create_app`` makes it; the routers are shared, which know of no application but that of the request."""
    app = create_app(state)
    shared = _routes(tuple(gateway.routes.__path__))
    # The document's route is the application's own.
    both = zip(app.router.routes, shared, strict=True)
    app.router.routes[:] = [own if isinstance(own, Route) else other for own, other in both]
    return app


def make_state(lifecycle: FakeLifecycle, records: list[Record], **changes: Any) -> AppState:
    tokenizer = byte_level()
    state = AppState(
        model_names=("org/model", "alias"),
        version="1.2.3",
        lifecycle=lifecycle,
        trials=FakeTrials(),
        streams=Streams(lifecycle, tokenizer),
        prompts=Prompts(tokenizer, _chat_template()),
        admission=Admission(lifecycle),
        render_metrics=lambda accept: (f"# HELP up {accept}\n".encode(), "text/plain; version=0.0.4"),
        record=records.append,
        created=1_700_000_000,
    )
    return replace(state, **changes)


@asynccontextmanager
async def serving(
    *, script: Callable[[Request], Iterator[Step]] = answer_hello, **changes: Any
) -> AsyncIterator[Server]:
    """A client of the application in this process; ``changes`` are fields of its state."""
    lifecycle = changes.pop("lifecycle", None) or FakeLifecycle(engine_info(byte_level()), script)
    records: list[Record] = []
    admission = changes.pop("admission", None)
    if admission is not None:
        changes["admission"] = admission(lifecycle)
    state = make_state(lifecycle, records, **changes)
    transport = httpx.ASGITransport(application(state))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Server(client, lifecycle, records, state)
    state.prompts.close()


def events_of(text: str) -> list[str]:
    """The data of each event of a stream, which must hold nothing else but comments."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            (line,) = lines
            assert line.startswith("data: ")
            events.append(line.removeprefix("data: "))
    return events
