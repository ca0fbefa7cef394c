"""``POST /v1/chat/completions``."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from engine.grammar import Grammar
from engine.messages import EngineInfo
from engine.sampling_params import SamplingParams
from gateway.completion.formats import reasoning_formats
from gateway.completion.parser import Parsing
from gateway.endpoint import Endpoint, Plan
from gateway.errors import UnsupportedParameter
from gateway.prompt import Fitting, Longest
from gateway.protocol.answer import AnswerOptions
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.chat_answer import ChatBody, ChatStream
from gateway.protocol.constrained import Wanted
from gateway.protocol.openapi import answers, request_body
from gateway.protocol.parse import parse
from gateway.protocol.reasoning import limit_of, with_effort
from gateway.protocol.responses import ChatCompletion, ChatCompletionChunk
from gateway.protocol.sampling import resolve_max_tokens
from gateway.protocol.tool_grammar import WantedCalls, after_reasoning, wanted_calls
from gateway.protocol.tools import forces_a_call
from gateway.state import AppState, Context, State

router = APIRouter(tags=["OpenAI"])


async def render(body: ChatCompletionRequest, state: AppState, longest: Longest) -> tuple[list[int], str]:
    """Messages → all tokens of the prompt, and its text. Raises ``InvalidRequest`` where the template refuses them."""
    return await state.prompts.chat(
        body.template_messages,
        add_generation_prompt=body.generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        variables=plan_variables(body, state),
        longest=longest,
        tools=[tool.for_template() for tool in body.offered_tools],
    )


def truncated(body: ChatCompletionRequest, prompt: list[int], info: EngineInfo) -> list[int]:
    """What is kept of it."""
    return body.truncated(prompt, info.max_model_len - max(body.max_output or body.min_tokens or 0, 1))


async def check_all_but_length(
    body: ChatCompletionRequest, state: AppState, info: EngineInfo, caller: str, prompt: list[int], text: str
) -> None:
    """Raises what ``plan`` raises, but for a prompt that leaves no room for an answer."""
    max_tokens = _max_tokens(body, info, prompt) if len(prompt) < info.max_model_len else 1
    parsing = plan_parsing(body, state, text)
    await _params(body, state, info, parsing, max_tokens)
    await plan_grammar(body, state, info, caller, parsing)


async def plan(body: ChatCompletionRequest, state: AppState, info: EngineInfo, caller: str) -> Plan:
    """Messages → one prompt. Raises ``InvalidRequest`` where the template refuses them or they do not fit."""
    longest = Fitting(info.max_model_len, truncated=body.truncate_prompt_tokens is not None)
    prompt, text = await render(body, state, longest)
    prompt = truncated(body, prompt, info)
    max_tokens = _max_tokens(body, info, prompt)
    parsing = plan_parsing(body, state, text)
    return Plan(
        params=(await _params(body, state, info, parsing, max_tokens),),
        grammar=await plan_grammar(body, state, info, caller, parsing),
        options=AnswerOptions(
            prompts=(prompt,),
            n=body.num_choices,
            logprobs=body.num_logprobs is not None,
            prompt_logprobs=body.prompt_logprobs,
            token_ids=bool(body.return_token_ids),
            reasoning=body.include_reasoning is not False,
            usage=body.stream_usage,
            continuous_usage=body.continuous_usage,
            skip_special_tokens=body.skip_special_tokens is not False,
            continues_prompt=bool(body.continue_final_message),
            echo=(body.echoed_text or "",) if body.echo else None,
        ),
        form_param=body.form_param,
        parsing=parsing,
    )


def _max_tokens(body: ChatCompletionRequest, info: EngineInfo, prompt: list[int]) -> int:
    return resolve_max_tokens(
        prompt_tokens=len(prompt),
        asked=body.max_output,
        default=None,
        min_tokens=body.min_tokens or 0,
        context=info.max_model_len,
        what="messages",
        param=body.max_output_param,
    )


async def _params(
    body: ChatCompletionRequest, state: AppState, info: EngineInfo, parsing: Parsing | None, max_tokens: int
) -> SamplingParams:
    return body.sampling_params(
        info,
        max_tokens=max_tokens,
        logprobs=body.num_logprobs,
        prompt_logprobs=body.prompt_logprobs,
        allowed_token_ids=body.allowed_token_ids or (),
        bad_words=await state.prompts.bad_words(body.bad_words or []),
        reasoning_limit=limit_of(body.thinking_token_budget, parsing, state.prompts.tokenizer.token_id),
    )


def plan_variables(body: ChatCompletionRequest, state: AppState) -> dict[str, Any]:
    """Those of the chat template. Raises ``UnsupportedParameter`` where it has none for what is asked."""
    template, reasoning = state.prompts.template, state.reasoning_format
    if template is None:
        return {}
    return with_effort(
        body.chat_template_kwargs,
        body.reasoning_effort,
        readable=(template.for_tools if body.offered_tools else template).variables,
        efforts=reasoning_formats()[reasoning].efforts if reasoning is not None else None,
    )


def plan_parsing(body: ChatCompletionRequest, state: AppState, prompt: str) -> Parsing | None:
    """How the answer's text is taken apart; ``prompt`` is what it follows.

    Raises ``UnsupportedParameter`` where tools are offered and it is not known how the model writes calls.
    """
    tools, reasoning = body.offered_tools, state.reasoning_format
    if tools and state.tool_format is None:
        raise UnsupportedParameter(
            "'tools' is not supported: how this model writes tool calls does not show in its chat template. Start the "
            "server with --tool-call-format NAME.",
            param="tools",
        )
    if not tools and reasoning is None:
        return None
    return Parsing(
        tool_format=state.tool_format if tools else None,
        reasoning_format=reasoning,
        in_reasoning=reasoning is not None and reasoning_formats()[reasoning].begun(prompt, body.continued_text),
        single_call=body.parallel_tool_calls is False,
        calls_or_form=bool(tools) and body.has_form and not forces_a_call(body.tool_choice),
        schemas={tool.function.name: tool.parameter_types() for tool in tools},
    )


async def plan_grammar(
    body: ChatCompletionRequest, state: AppState, info: EngineInfo, caller: str, parsing: Parsing | None
) -> Grammar | None:
    """What the answer has to look like. Raises ``InvalidRequest`` where that cannot be enforced."""
    if not (body.has_form or body.offered_tools):
        return None
    # Off the event loop: schemas take their time.
    wanted, calls = await state.prompts.run(lambda: _wanted(body, state, parsing))

    async def accept(each: Wanted) -> Grammar:
        return await state.trials.accept(each.trial, each.param, info, caller)

    if calls is not None:
        return await calls.accepted(accept)
    return None if wanted is None else await accept(wanted)


def _wanted(
    body: ChatCompletionRequest, state: AppState, parsing: Parsing | None
) -> tuple[Wanted | None, WantedCalls | None]:
    """Of an answer without calls, and where calls are enforced, of any answer."""
    tools, tokenizer, template = body.offered_tools, state.prompts.tokenizer, state.prompts.template
    wanted = body.wanted(state.limits)
    calls = None
    if template is not None:
        calls = wanted_calls(
            tools,
            body.tool_choice,
            parsing,
            wanted,
            template=template.for_tools.source,
            token_of=tokenizer.special_id,
            limits=state.limits,
        )
    if calls is not None:
        body.refuse_another_end(calls.param)
        return None, calls
    return None if wanted is None else after_reasoning(wanted, parsing, tokenizer.special_id), None


CHAT = Endpoint("chatcmpl", partial(parse, ChatCompletionRequest), plan, ChatStream, ChatBody)


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
