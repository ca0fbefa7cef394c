"""What the routes are given: every dependency of the application, made once and never changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from engine.grammar import Grammar
from engine.grammar_trial_messages import Trial
from engine.messages import EngineInfo, PoolPicture
from gateway.admission import Admission, Keys, Tenant
from gateway.completion.choice import ReplicaView
from gateway.completion.events import Event
from gateway.completion.request import Request as CompletionRequest
from gateway.completion.streams import Streams
from gateway.errors import ModelNotFound, Unavailable
from gateway.prompt import Prompts
from gateway.protocol.constrained import Wanted
from gateway.protocol.limits import Limits
from observability.records import Record
from observability.tracing import Tracing


class EventStream(Protocol):
    """A request that was submitted, from its reader's side."""

    def __aiter__(self) -> AsyncIterator[list[Event]]: ...

    async def __anext__(self) -> list[Event]: ...

    async def ready(self) -> None:
        """Wait until the next read returns or raises at once."""

    def cancel(self) -> None: ...


class Trials(Protocol):
    """What the routes need of ``grammars.trials``."""

    async def accept(self, trial: Trial, param: str, info: EngineInfo, caller: str) -> Grammar:
        """The grammar to be used. Raises ``InvalidRequest`` naming ``param`` where it cannot be compiled."""

    async def close(self) -> None: ...


class Completions(Protocol):
    """What the routes need of ``completion.lifecycle``."""

    @property
    def ready(self) -> bool:
        """Whether new work is welcome."""

    @property
    def replicas(self) -> tuple[int, int]:
        """(how many are up, how many there are)."""

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down."""

    @property
    def info(self) -> EngineInfo | None:
        """None until an engine has been up."""

    @property
    def queued_requests(self) -> int: ...

    @property
    def queued_tokens(self) -> int: ...

    def submit(self, request: CompletionRequest) -> EventStream: ...

    def replica_views(self) -> list[ReplicaView]:
        """Of the replicas that are up, by number."""

    def drain_replica(self, replica: int) -> None: ...

    def reset_prefix_caches(self) -> list[int]:
        """Gives the replicas that were told."""


async def nobody_looks() -> dict[int, PoolPicture]:
    """Where no engine can be asked."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """Given to ``create_app``."""

    model_names: tuple[str, ...]
    """Names that clients may use; the first one is shown in answers to requests that name none."""
    version: str
    lifecycle: Completions
    streams: Streams
    prompts: Prompts
    trials: Trials
    admission: Admission
    render_metrics: Callable[[str], tuple[bytes, str]]
    """For a header ``Accept`` gives the text and its content type."""
    keys: Keys = field(default_factory=Keys)
    admin_keys: Keys = field(default_factory=Keys)
    """Without any there are no admin routes."""
    limits: Limits = field(default_factory=Limits)
    tool_format: str | None = None
    """Name of the format in which the model writes tool calls; None where that is not known."""
    reasoning_format: str | None = None
    """The same of reasoning."""
    tracing: Tracing | None = None
    """None where no traces are sent."""
    record: Callable[[Record], None] = lambda _: None
    """Where records for the metrics go."""
    look: Callable[[], Awaitable[dict[int, PoolPicture]]] = nobody_looks
    """What the engines of replicas look like inside, asked of them now."""
    failure: Callable[[], str | None] = lambda: None
    """Why the supervisor has given up, or None while it has not."""
    leaving: Callable[[], bool] = lambda: False
    """Whether clients should connect anew for their next request: then responses close their connection."""
    cors_origins: tuple[str, ...] = ()
    created: int = 0
    """Unix time at which the server started, shown as the model's."""
    keep_alive: float = 15.0
    """Seconds of silence on a stream after which a comment is sent."""

    async def grammar(self, wanted: Callable[[], Wanted | None], info: EngineInfo, caller: str) -> Grammar | None:
        """What an answer has to look like. ``wanted`` is called off the event loop: schemas take their time.

        Raises ``InvalidRequest`` where no engine could compile it.
        """
        found = await self.prompts.run(wanted)
        return None if found is None else await self.trials.accept(found.trial, found.param, info, caller)

    def engine_info(self) -> EngineInfo:
        """What holds for every replica. Raises ``Unavailable`` until one has been up."""
        info = self.lifecycle.info
        if info is None:
            raise Unavailable("The engine is starting; try again shortly.", retry_after=2)
        return info

    def model_name(self, asked: str | None) -> str:
        """The name to answer with. Raises ``ModelNotFound`` where another model is asked for."""
        if asked is None:
            return self.model_names[0]
        if asked not in self.model_names:
            raise ModelNotFound(
                f"The model '{asked[:128]}' does not exist. This server has: {', '.join(self.model_names)}.",
                param="model",
            )
        return asked


@dataclass(slots=True)
class RequestContext:
    """What the middleware knows of a request, and what the routes add for the access log."""

    request_id: str
    started: float
    tenant: Tenant = field(default_factory=Tenant)
    key: bytes = b""
    """The hash of the API key that it came with."""
    traceparent: str = ""
    goes_on: str = ""
    """The ``traceparent`` of the request whose answer is read on here."""
    """The span that its work is a part of, in W3C's form; empty where it is not traced."""
    accepted: bool = False
    """Handed to the completion layer, which from then on reports how it ends."""
    headers: dict[str, str] = field(default_factory=dict)
    """To be added to the response."""
    log: dict[str, object] = field(default_factory=dict)
    """To be added to the access log line; never keys or prompts."""


async def get_state(request: Request) -> AppState:
    """For FastAPI's dependency injection, which would run a function that is not ``async`` in a thread."""
    state: AppState = request.app.state.penstock
    return state


async def get_context(request: Request) -> RequestContext:
    """For FastAPI's dependency injection."""
    context: RequestContext = request.scope["penstock.context"]
    return context


State = Annotated[AppState, Depends(get_state)]
Context = Annotated[RequestContext, Depends(get_context)]
