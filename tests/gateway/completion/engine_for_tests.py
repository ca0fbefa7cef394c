"""An engine as the lifecycle sees it: what it was sent, and frames to answer with."""

from __future__ import annotations

import tokenizers_for_tests as families

from engine.messages import (
    Abort,
    CacheEvents,
    EngineFinish,
    EngineInfo,
    Start,
    StepOutput,
    ToEngine,
    TokenLogprobs,
    Tokens,
)
from engine.sampling_params import SamplingParams
from gateway.completion.events import Completed, Delta, Event
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.parser import Parsing
from gateway.completion.request import Request
from gateway.completion.stream import Stream
from gateway.replicas.loss import Loss
from observability.records import ChoiceStats, EngineState, Record, StepStats

EOS = 1
INFO = EngineInfo(
    device="cpu",
    dtype="float32",
    parameters=1,
    weight_bytes=4,
    max_model_len=1000,
    block_size=16,
    num_blocks=8,
    cache_bytes=64,
    vocab_size=400,
    eos_token_ids=[EOS],
    fingerprint="fake",
    kernels={},
    load_seconds={},
)
STATS = StepStats(
    step=1,
    duration=0.0,
    scheduled_tokens=1,
    prompt_tokens=0,
    generated_tokens=1,
    state=EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8),
    preemptions=0,
    prefix_queries=0,
    prefix_hits=0,
)


class Records(list[object]):
    """What was recorded, and of which replica."""

    def __init__(self) -> None:
        self.replicas: list[str] = []

    def __call__(self, record: Record, *, replica: str = "0") -> None:
        self.append(record)
        self.replicas.append(replica)


class ManualClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


class FakeEngine:
    """One incarnation. ``sent`` is everything it was told."""

    def __init__(self, lifecycle: Lifecycle, *, replica: int = 0, epoch: int = 1, info: EngineInfo = INFO) -> None:
        self.lifecycle, self.replica, self.epoch = lifecycle, replica, epoch
        self.sent: list[ToEngine] = []
        lifecycle.up(replica, epoch, info, self.sent.append)

    @property
    def starts(self) -> list[Start]:
        return [message for message in self.sent if isinstance(message, Start)]

    @property
    def aborts(self) -> list[tuple[str, int]]:
        return [(message.id, message.attempt) for message in self.sent if isinstance(message, Abort)]

    def start(self, choice_id: str) -> Start:
        return [start for start in self.starts if start.id == choice_id][-1]

    def step(self, *outputs: Tokens, started: tuple[str, ...] = ()) -> None:
        message = StepOutput(started=list(started), outputs=list(outputs), stats=[STATS])
        self.lifecycle.receive(self.replica, self.epoch, message)

    def say(
        self,
        choice_id: str,
        at: int,
        *ids: int,
        attempt: int = 1,
        finish: EngineFinish | None = None,
        failure: str | None = None,
        stats: ChoiceStats | None = None,
        logprobs: list[TokenLogprobs] | None = None,
        prompt_logprobs: list[TokenLogprobs] | None = None,
    ) -> None:
        self.step(
            Tokens(
                id=choice_id,
                attempt=attempt,
                at=at,
                ids=list(ids),
                finish=finish,
                failure=failure,
                stats=stats,
                logprobs=logprobs,
                prompt_logprobs=prompt_logprobs,
            )
        )

    def tell_of_cache(self, stored: list[bytes], evicted: list[bytes] | None = None) -> None:
        self.lifecycle.receive(self.replica, self.epoch, CacheEvents(stored=stored, evicted=evicted or []))

    def lose(self, *, executing: dict[str, int] | None = None, own_doing: bool = False) -> None:
        """``executing``: choices of the step under way, each with the output tokens that it had."""
        prompts = {start.id: len(start.prompt) for start in self.starts}
        tokens = None if executing is None else {key: [at + prompts[key]] for key, at in executing.items()}
        self.lifecycle.lost(self.replica, self.epoch, Loss("signal", "test", own_doing, tokens))


def ids_of(text: str) -> list[int]:
    return families.byte_level().encode(text, add_special_tokens=False)


def make_request(
    request_id: str = "r",
    *,
    prompts: tuple[list[int], ...] = ([5, 6, 7],),
    n: int = 1,
    stop: tuple[str, ...] = (),
    tenant: str = "default",
    session: bytes | None = None,
    parsing: Parsing | None = None,
    **params: object,
) -> Request:
    sampling = SamplingParams(**{"max_tokens": 100, "stop_token_ids": (EOS,)} | params)
    return Request(
        id=request_id,
        tenant=tenant,
        prompts=prompts,
        n=n,
        params=(sampling,) * len(prompts),
        seed=9,
        stop=stop,
        session=session,
        parsing=parsing,
    )


def ready_events(stream: Stream) -> list[Event]:
    """What a reader would get now, without waiting; raises what the stream raises."""
    reading = stream.__anext__()
    try:
        reading.send(None)
    except StopIteration as done:
        events: list[Event] = done.value
        return events
    except StopAsyncIteration:
        return []
    reading.close()
    return []


async def text_and_end(stream: Stream) -> tuple[str, str | None, Completed | None]:
    """Of a request with one choice: (text, finish reason, the last event)."""
    text, finish, completed = "", None, None
    async for events in stream:
        for event in events:
            if isinstance(event, Delta):
                text, finish = text + event.text, event.finish_reason
            elif isinstance(event, Completed):
                assert completed is None
                completed = event
    return text, finish, completed
