"""``POST /tokenize``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from gateway.prompt import Characters
from gateway.protocol.openapi import ANY_POST, errors, request_body
from gateway.protocol.token_requests import (
    TokenizeChatRequest,
    Tokenized,
    TokenizeRequest,
    TokenizeTextRequest,
    parse_tokenize,
)
from gateway.request_body import parsed, read
from gateway.routes.chat import render
from gateway.state import AppState, Context, State

router = APIRouter(tags=["Tokens"])


@router.post(
    "/tokenize",
    summary="Text or messages to token ids",
    responses=errors(*ANY_POST),
    openapi_extra=request_body(TokenizeTextRequest, TokenizeChatRequest),
)
async def tokenize(request: Request, state: State, context: Context) -> Tokenized:
    """The tokens of a `prompt`, or of the prompt that `messages` become."""
    raw = await read(request)
    with state.admission.enter(context.tenant):
        body = await parsed(raw, parse_tokenize, state, context)
        state.model_name(body.model)
        info = state.engine_info()
        ids = await _tokens(body, state)
        spelt = None
        if body.return_token_strs:
            spell = state.prompts.tokenizer.spelling
            spelt = await state.prompts.run(lambda: [spell(token) for token in ids])
        return Tokenized(
            count=len(ids),
            max_model_len=info.max_model_len,
            tokens=ids,
            token_strs=spelt,
        )


async def _tokens(body: TokenizeRequest, state: AppState) -> list[int]:
    if isinstance(body, TokenizeChatRequest):
        return (await render(body.chat, state, Characters(state.limits)))[0]
    assert isinstance(body, TokenizeTextRequest)
    add = body.add_special_tokens is not False
    longest = Characters(state.limits)
    return (await state.prompts.texts([body.prompt], params=["prompt"], add_special_tokens=add, longest=longest))[0]
