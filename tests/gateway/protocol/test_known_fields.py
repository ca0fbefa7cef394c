"""Every field of OpenAI's request schemas is known to us: honoured, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import chat as openai_chat
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.shared_params import FunctionDefinition

from gateway.protocol import fields, messages, tools
from gateway.protocol.base import RequestModel
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.sampling import StreamOptions

PAIRS: list[tuple[Any, type[RequestModel]]] = [
    (chat_create_params.CompletionCreateParamsStreaming, ChatCompletionRequest),
    (chat_create_params.CompletionCreateParamsNonStreaming, ChatCompletionRequest),
    (completion_create_params.CompletionCreateParamsStreaming, CompletionRequest),
    (completion_create_params.CompletionCreateParamsNonStreaming, CompletionRequest),
    (openai_chat.ChatCompletionStreamOptionsParam, StreamOptions),
    (openai_chat.ChatCompletionSystemMessageParam, messages.SystemMessage),
    (openai_chat.ChatCompletionDeveloperMessageParam, messages.SystemMessage),
    (openai_chat.ChatCompletionUserMessageParam, messages.UserMessage),
    (openai_chat.ChatCompletionAssistantMessageParam, messages.AssistantMessage),
    (openai_chat.ChatCompletionToolMessageParam, messages.ToolMessage),
    (openai_chat.ChatCompletionContentPartTextParam, messages.TextPart),
    (openai_chat.ChatCompletionMessageFunctionToolCallParam, messages.ToolCall),
    (openai_chat.ChatCompletionMessageCustomToolCallParam, messages.ToolCall),
    (openai_chat.chat_completion_message_function_tool_call_param.Function, messages.FunctionCall),
    (openai_chat.ChatCompletionFunctionToolParam, tools.Tool),
    (openai_chat.ChatCompletionCustomToolParam, tools.Tool),
    (FunctionDefinition, tools.FunctionTool),
    (openai_chat.ChatCompletionNamedToolChoiceParam, tools.NamedChoice),
    (openai_chat.chat_completion_named_tool_choice_param.Function, tools.NamedFunction),
    (openai_chat.ChatCompletionAllowedToolChoiceParam, tools.AllowedChoice),
    (openai_chat.ChatCompletionAllowedToolsParam, tools.AllowedTools),
]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=lambda side: side.__name__)
def test_every_field_of_openai_is_known(theirs, ours):
    known = ours.model_fields.keys() | ours.unsupported.keys()
    assert theirs.__annotations__.keys() <= known


def test_every_content_part_of_openai_is_known():
    parts = [
        openai_chat.ChatCompletionContentPartImageParam,
        openai_chat.ChatCompletionContentPartInputAudioParam,
        openai_chat.chat_completion_content_part_param.File,
        openai_chat.ChatCompletionContentPartRefusalParam,
    ]
    types = {member for part in parts for member in _literals(part, "type")}
    assert types == {"image_url", "input_audio", "file", "refusal"}
    assert types <= messages.REFUSED_PARTS.keys()


def test_every_role_of_openai_is_known():
    theirs = openai_chat.ChatCompletionMessageParam.__args__
    roles = {role for message in theirs for role in _literals(message, "role")}
    assert roles - set(messages.ROLES) == {"function"}  # superseded, and refused by name


def _literals(typed_dict: Any, field: str) -> tuple[str, ...]:
    from typing_extensions import get_type_hints

    return get_type_hints(typed_dict)[field].__args__


def test_no_field_is_both_honoured_and_refused():
    for model in _models(RequestModel):
        assert not model.model_fields.keys() & model.unsupported.keys()


def test_every_field_is_described():
    for model in _models(RequestModel):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def _models(base: type[RequestModel]) -> list[type[RequestModel]]:
    return [model for child in base.__subclasses__() for model in (child, *_models(child))]


@pytest.mark.parametrize(
    ("value", "allowed", "accepted"),
    [
        (None, (), True),
        (False, (False,), True),
        (0, (False,), False),
        (False, (0,), False),
        (0, (0.0,), True),
        ([], ([],), True),
        ([True], ([1],), False),
        (["text"], (["text"],), True),
        (["text", "audio"], (["text"],), False),
        ({"type": "text"}, ({"type": "text"},), True),
        ({"type": "text", "more": 1}, ({"type": "text"},), False),
        ("", ([],), False),
    ],
)
def test_a_no_op_value_is_compared_as_json(value, allowed, accepted):
    assert fields.NoOp("why", allowed).accepts(value) is accepted
    assert fields.NoOp("why", allowed, anything=True).accepts(value)
