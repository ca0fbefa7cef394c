"""What a conversation becomes: ``POST /v1/chat/completions/input_tokens`` counts it, ``…/render`` shows it.

Both take the body of ``/v1/chat/completions`` as it would be sent there, and refuse what would be refused there,
grammars included. A prompt that leaves no room for an answer is counted and shown all the same.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from gateway.prompt import Characters
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.openapi import ANY_POST, errors, request_body
from gateway.protocol.parse import parse
from gateway.protocol.token_requests import InputTokens, RenderedPrompt
from gateway.request_body import parsed, read
from gateway.routes.chat import check_all_but_length, render, truncated
from gateway.state import AppState, Context, RequestContext, State

router = APIRouter(tags=["Tokens"])


@router.post(
    "/v1/chat/completions/input_tokens",
    summary="Count the tokens of a conversation",
    responses=errors(*ANY_POST),
    openapi_extra=request_body(ChatCompletionRequest),
)
async def count_input_tokens(request: Request, state: State, context: Context) -> InputTokens:
    """How many tokens of prompt a request to `/v1/chat/completions` would have."""
    _, ids, _ = await _rendered(request, state, context)
    return InputTokens(object="chat.completion.input_tokens", input_tokens=len(ids))


@router.post(
    "/v1/chat/completions/render",
    summary="Show the prompt of a conversation",
    responses=errors(*ANY_POST),
    openapi_extra=request_body(ChatCompletionRequest),
)
async def render_chat_prompt(request: Request, state: State, context: Context) -> RenderedPrompt:
    """The prompt that a request to `/v1/chat/completions` would have, as the model sees it."""
    model, ids, text = await _rendered(request, state, context)
    return RenderedPrompt(object="chat.completion.render", model=model, prompt=text, prompt_token_ids=ids)


async def _rendered(request: Request, state: AppState, context: RequestContext) -> tuple[str, list[int], str]:
    """Model, token ids and text."""
    raw = await read(request)
    with state.admission.enter(context.tenant):
        body = await parsed(raw, partial(parse, ChatCompletionRequest), state, context)
        model = state.model_name(body.model)
        info = state.engine_info()
        prompt, text = await render(body, state, Characters(state.limits))
        prompt = truncated(body, prompt, info)
        await check_all_but_length(body, state, info, context.tenant.name, prompt, text)
        return model, prompt, text
