"""``POST /v1/chat/completions``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from engine.messages import EngineInfo
from gateway.endpoint import Endpoint, Plan
from gateway.protocol.answer import AnswerOptions
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.chat_answer import ChatBody, ChatStream
from gateway.protocol.openapi import answers, request_body
from gateway.protocol.responses import ChatCompletion, ChatCompletionChunk
from gateway.protocol.sampling import resolve_max_tokens
from gateway.state import AppState, Context, State

router = APIRouter(tags=["OpenAI"])


async def plan(body: ChatCompletionRequest, state: AppState, info: EngineInfo) -> Plan:
    """Messages → one prompt. Raises ``InvalidRequest`` where the template refuses them or they do not fit."""
    prompt = await state.prompts.chat(
        body.template_messages,
        add_generation_prompt=body.generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        variables=body.chat_template_kwargs,
        context=info.max_model_len,
    )
    max_tokens = resolve_max_tokens(
        prompt_tokens=len(prompt),
        asked=body.max_output,
        default=None,
        min_tokens=body.min_tokens or 0,
        context=info.max_model_len,
        what="messages",
        param=body.max_output_param,
    )
    return Plan(
        params=(body.sampling_params(info, max_tokens=max_tokens, logprobs=body.num_logprobs),),
        options=AnswerOptions(
            prompts=(prompt,),
            n=body.num_choices,
            logprobs=body.num_logprobs is not None,
            token_ids=bool(body.return_token_ids),
            usage=body.stream_usage,
            continuous_usage=body.continuous_usage,
            skip_special_tokens=body.skip_special_tokens is not False,
            continues_prompt=bool(body.continue_final_message),
        ),
    )


CHAT = Endpoint("chatcmpl", ChatCompletionRequest, plan, ChatStream, ChatBody)


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    response_class=Response,
    responses=answers(ChatCompletion, ChatCompletionChunk),
    openapi_extra=request_body(ChatCompletionRequest),
)
async def create_chat_completion(request: Request, state: State, context: Context) -> Response:
    """The model's next message in a conversation; with `stream`, as server-sent events while it is written."""
    return await CHAT.serve(request, state, context)
