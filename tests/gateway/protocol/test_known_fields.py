"""Every field of OpenAI's request schemas is known to us: honoured, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import chat as openai_chat
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from gateway.protocol import chat, fields
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
    (openai_chat.ChatCompletionSystemMessageParam, chat.SystemMessage),
    (openai_chat.ChatCompletionDeveloperMessageParam, chat.SystemMessage),
    (openai_chat.ChatCompletionUserMessageParam, chat.UserMessage),
    (openai_chat.ChatCompletionAssistantMessageParam, chat.AssistantMessage),
    (openai_chat.ChatCompletionToolMessageParam, chat.ToolMessage),
    (openai_chat.ChatCompletionContentPartTextParam, chat.TextPart),
    (openai_chat.ChatCompletionMessageFunctionToolCallParam, chat.ToolCall),
    (openai_chat.ChatCompletionMessageCustomToolCallParam, chat.ToolCall),
    (openai_chat.chat_completion_message_function_tool_call_param.Function, chat.FunctionCall),
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
    assert types <= chat.REFUSED_PARTS.keys()


def test_every_role_of_openai_is_known():
    messages = openai_chat.ChatCompletionMessageParam.__args__
    roles = {role for message in messages for role in _literals(message, "role")}
    assert roles - set(chat.ROLES) == {"function"}  # superseded, and refused by name


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
