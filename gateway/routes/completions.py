"""``POST /v1/completions``."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from engine.messages import EngineInfo
from engine.sampling_params import SamplingParams
from gateway.endpoint import Endpoint, Plan
from gateway.errors import InvalidRequest
from gateway.fill_in_middle import filled_in
from gateway.prompt import Fitting
from gateway.protocol.answer import AnswerOptions
from gateway.protocol.completion_answer import CompletionBody, CompletionStream
from gateway.protocol.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from gateway.protocol.openapi import answers, request_body
from gateway.protocol.parse import parse
from gateway.protocol.responses import TextCompletion
from gateway.protocol.sampling import check_token_ids, resolve_max_tokens
from gateway.state import AppState, Context, State

router = APIRouter(tags=["OpenAI"])


async def plan(body: CompletionRequest, state: AppState, info: EngineInfo, caller: str) -> Plan:
    """Prompts → token ids. Raises ``InvalidRequest`` where one is empty, does not fit or is out of vocabulary."""
    skip = body.skip_special_tokens is not False
    texts, given_ids = body.texts, body.token_lists
    longest = Fitting(info.max_model_len, truncated=body.truncate_prompt_tokens is not None)
    filled = filled_in(texts, body.suffix, state.prompts.tokenizer)
    ids = await state.prompts.texts(
        filled.texts,
        params=body.prompt_params,
        add_special_tokens=body.add_special_tokens is not False,
        longest=longest,
    )
    if filled.apart is not None and filled.last is not None:
        following = await state.prompts.following(filled.apart, longest=longest)
        ids = [[*each, *following, filled.last] for each in ids]
    for prompt, param in zip(given_ids, body.prompt_params, strict=False):
        check_token_ids(prompt, info.vocab_size, param)
    room = info.max_model_len - max(DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens, 1)
    prompts = tuple(body.truncated(prompt, room) for prompt in (*ids, *given_ids))
    bad_words = await state.prompts.bad_words(body.bad_words or [])
    params = tuple(
        _params(body, info, len(prompt), param, bad_words)
        for prompt, param in zip(prompts, body.prompt_params, strict=True)
    )
    # What was cut off, or never was text, is echoed as it is read.
    shown = texts if body.truncate_prompt_tokens is None else []
    decode = state.prompts.tokenizer.decode
    echoed: tuple[str, ...] | None = None
    if body.echo:
        rest = prompts[len(shown) :]
        decoded = await state.prompts.run(lambda: [decode(prompt, skip_special_tokens=skip) for prompt in rest])
        echoed = (*shown, *decoded)
    grammar = await state.grammar(lambda: body.wanted(state.limits), info, caller) if body.has_form else None
    return Plan(
        params=params,
        grammar=grammar,
        form_param=body.form_param,
        options=AnswerOptions(
            prompts=prompts,
            n=body.num_generated,
            keep=body.num_choices if body.num_generated > body.num_choices else None,
            logprobs=body.logprobs is not None,
            top_logprobs=body.logprobs if body.prompt_logprobs is not None else None,
            prompt_logprobs=body.prompt_logprobs,
            token_ids=bool(body.return_token_ids),
            usage=body.stream_usage,
            continuous_usage=body.continuous_usage,
            skip_special_tokens=skip,
            continues_prompt=True,
            echo=echoed,
            scores_only=body.scores_only,
        ),
    )


def _params(
    body: CompletionRequest, info: EngineInfo, prompt_tokens: int, prompt_param: str, bad_words: list[list[int]]
) -> SamplingParams:
    if prompt_tokens == 0:
        message = f"Invalid '{prompt_param}': it must hold at least one token."
        raise InvalidRequest(message, param=prompt_param, code="empty_prompt")
    max_tokens = resolve_max_tokens(
        prompt_tokens=prompt_tokens,
        asked=1 if body.scores_only else body.max_tokens,  # the engine has no step that generates nothing
        default=DEFAULT_MAX_TOKENS,
        min_tokens=body.min_tokens or 0,
        context=info.max_model_len,
        what=prompt_param,
        param="max_tokens",
    )
    return body.sampling_params(
        info,
        max_tokens=max_tokens,
        logprobs=body.engine_logprobs,
        prompt_logprobs=body.engine_prompt_logprobs,
        allowed_token_ids=body.allowed_token_ids or (),
        bad_words=bad_words,
    )


COMPLETIONS = Endpoint("cmpl", partial(parse, CompletionRequest), plan, CompletionStream, CompletionBody)


@router.post(
    "/v1/completions",
    summary="Continue a text",
    response_class=Response,
    responses=answers(TextCompletion, TextCompletion),
    openapi_extra=request_body(CompletionRequest),
)
async def create_completion(request: Request, state: State, context: Context) -> Response:
    """What the model writes after a prompt, or after each of several."""
    return await COMPLETIONS.serve(request, state, context)
