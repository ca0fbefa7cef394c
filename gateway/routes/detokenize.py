"""``POST /detokenize``."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from gateway.protocol.openapi import ANY_POST, errors, request_body
from gateway.protocol.parse import parse
from gateway.protocol.sampling import check_token_ids
from gateway.protocol.token_requests import Detokenized, DetokenizeRequest
from gateway.request_body import parsed, read
from gateway.state import Context, State

router = APIRouter(tags=["Tokens"])


@router.post(
    "/detokenize",
    summary="Token ids to text",
    responses=errors(*ANY_POST),
    openapi_extra=request_body(DetokenizeRequest),
)
async def detokenize(request: Request, state: State, context: Context) -> Detokenized:
    """The text of `tokens`, special tokens included. An id that is no token adds nothing."""
    raw = await read(request)
    with state.admission.enter(context.tenant):
        body = await parsed(raw, partial(parse, DetokenizeRequest), state, context)
        state.model_name(body.model)
        check_token_ids(body.tokens, state.engine_info().vocab_size, "tokens")
        decode = state.prompts.tokenizer.decode
        return Detokenized(prompt=await state.prompts.run(lambda: decode(body.tokens, skip_special_tokens=False)))
