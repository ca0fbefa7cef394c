"""What both completion endpoints do with a request: read, admit, plan, submit, respond."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request, Response

from engine.grammar import Grammar
from engine.messages import EngineInfo
from engine.sampling_params import SamplingParams
from gateway.admission import Ticket
from gateway.completion.parser import Parsing
from gateway.completion.request import Request as CompletionRequest
from gateway.errors import Unavailable, UnsupportedParameter
from gateway.protocol.answer import AnswerOptions, BodyAnswer, Envelope, StreamAnswer
from gateway.protocol.event_ids import HEADER, ResumeMode, resume_mode
from gateway.protocol.form import Form
from gateway.protocol.limits import Limits, flag_of
from gateway.protocol.sampling import SamplingRequest
from gateway.request_body import Parse, parsed, read
from gateway.respond import streamed, whole
from gateway.state import AppState, RequestContext

Body = TypeVar("Body", bound=SamplingRequest)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, worked out: one entry of ``params`` for each prompt."""

    params: tuple[SamplingParams, ...]
    options: AnswerOptions
    parsing: Parsing | None = None
    grammar: Grammar | None = None
    """One that was tried."""
    form_param: str | None = None
    """The field that asks for it."""


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Body]):
    """What one endpoint adds to the common path."""

    id_prefix: str
    parse: Parse[Body]
    plan: Callable[[Body, AppState, EngineInfo, str], Awaitable[Plan]]
    """The last is who asks, for the turns that callers take."""
    stream: type[StreamAnswer]
    body: type[BodyAnswer]

    async def serve(self, request: Request, state: AppState, context: RequestContext) -> Response:
        """Raises ``APIError`` for everything that is answered before the first byte of a response."""
        raw = await read(request)
        if state.lifecycle.draining:  # before the queue's bounds: another server is to be asked, not this one later
            raise Unavailable("The server is shutting down and takes no new requests.", retry_after=10)
        try:
            ticket = state.admission.enter(context.tenant)
        finally:
            _show_limits(state, context)
        streaming = False
        try:
            body = await parsed(raw, self.parse, state, context)
            if body.label is not None:
                context.log["user"] = body.label
            if body.metadata:
                context.log["metadata"] = body.metadata
            model = state.model_name(body.model)
            info = state.engine_info()
            plan = await self.plan(body, state, info, context.tenant.name)
            accepted = self._accepted(body, plan, state, context)
            state.admission.check_tokens(accepted.num_prompt_tokens)
            mode = _resume_mode(request, accepted, state.limits, streaming=bool(body.stream))
            context.log |= {"prompt_tokens": accepted.num_prompt_tokens, "stream": bool(body.stream)}
            envelope = Envelope(
                id=accepted.id, created=int(time.time()), model=model, system_fingerprint=info.fingerprint
            )
            if mode is not None:
                form = Form(mode=mode, kind=self.stream.object_name, envelope=envelope, options=plan.options)
                streaming = True
                return await self._recorded(request, state, context, accepted, form, ticket)
            stream = state.lifecycle.submit(accepted)
            _submitted(context, ticket)
            if not body.stream:
                return await whole(request, stream, self.body(envelope, plan.options, state.prompts.tokenizer))
            response = await streamed(
                request,
                stream,
                self.stream(envelope, plan.options, state.prompts.tokenizer),
                keep_alive=state.keep_alive,
                abandon=stream.cancel,
                ended=ticket.leave,
            )
            streaming = True
            return response
        finally:
            if not streaming:
                ticket.leave()

    async def _recorded(
        self,
        request: Request,
        state: AppState,
        context: RequestContext,
        accepted: CompletionRequest,
        form: Form,
        ticket: Ticket,
    ) -> Response:
        """A stream that may be resumed. It stays inside until all has been generated, whoever reads it."""
        try:
            recording = state.streams.submit(accepted, key=context.key, form=form.encode(), on_end=ticket.leave)
        except BaseException:
            ticket.leave()
            raise
        _submitted(context, ticket)
        reader = recording.read([0] * accepted.num_choices)
        await recording.saved()
        return await streamed(
            request,
            reader,
            form.answer(accepted.prompts, state.prompts.tokenizer),
            keep_alive=state.keep_alive,
            # Its client has not learned the stream's id, so nobody can come back for it.
            abandon=lambda: state.streams.abandon(recording),
            ended=lambda: None,
            headers=form.headers(durable=recording.durable),
        )

    def _accepted(self, body: Body, plan: Plan, state: AppState, context: RequestContext) -> CompletionRequest:
        return CompletionRequest(
            id=f"{self.id_prefix}-{uuid.uuid4().hex}",
            tenant=context.tenant.name,
            prompts=plan.options.prompts,
            n=plan.options.n,
            params=plan.params,
            seed=body.resolved_seed(),
            stop=body.stop_strings,
            include_stop_str_in_output=bool(body.include_stop_str_in_output),
            skip_special_tokens=plan.options.skip_special_tokens,
            continues_prompt=plan.options.continues_prompt,
            parsing=plan.parsing,
            grammar=plan.grammar,
            form_param=plan.form_param,
            cache_salt=_cache_salt(body.cache_salt or "", context, shared=not state.keys),
            session=_session(body.session, context),
            traceparent=context.traceparent,
        )


def _submitted(context: RequestContext, ticket: Ticket) -> None:
    context.accepted = True
    ticket.submitted()


def _resume_mode(
    request: Request, accepted: CompletionRequest, limits: Limits, *, streaming: bool
) -> ResumeMode | None:
    """Whether and how the stream may be resumed. Raises ``InvalidRequest``."""
    mode = resume_mode(request.headers.get(HEADER))
    if mode is not None and not streaming:
        raise UnsupportedParameter(
            f"'{HEADER}' is not supported: only a stream can be resumed; send stream: true.", param=HEADER
        )
    if mode is not None and accepted.num_choices > (most := limits.max_resume_choices):
        raise UnsupportedParameter(
            f"'{HEADER}' is not supported: a stream of more than {most} choices cannot be resumed here "
            f"({flag_of('max_resume_choices')}), and this one has {accepted.num_choices}.",
            param=HEADER,
        )
    return mode


def _show_limits(state: AppState, context: RequestContext) -> None:
    remaining = state.admission.remaining(context.tenant)
    if remaining is not None:
        context.headers["x-ratelimit-limit-requests"] = str(context.tenant.max_concurrency)
        context.headers["x-ratelimit-remaining-requests"] = str(remaining)


def _session(name: str | None, context: RequestContext) -> bytes | None:
    """A few bytes, however long the name is; another tenant's session of the same name is another one."""
    if name is None:
        return None
    return hashlib.blake2b(f"{context.tenant.name}\0{name}".encode(), digest_size=16).digest()


def _cache_salt(own: str, context: RequestContext, *, shared: bool) -> str:
    """How long a prompt takes tells whether its beginning is cached; tenants must not learn that of each other."""
    if shared:
        return own
    return hashlib.sha256(f"{context.tenant.name}\0{own}".encode()).hexdigest()[:32]
