"""The request schema of ``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Tag, model_validator

from gateway.errors import InvalidRequest
from gateway.protocol import fields
from gateway.protocol.base import RequestModel, kind_of, unsupported, wrong_field
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limits, at_most
from gateway.protocol.sampling import SamplingRequest

ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_MESSAGES, MOST_ITEMS = 16_384, 1024
"""In a conversation, and in one message: more than fits any context, and few enough to be read in no time."""
REFUSED_PARTS = {
    "image_url": "this server reads text only",
    "input_audio": "this server reads text only",
    "audio_url": "this server reads text only",
    "video_url": "this server reads text only",
    "file": "this server reads text only",
    "refusal": "a refusal is ordinary text here; send it as text",
}


class TextPart(RequestModel):
    """One part of a message's content."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.CONTENT_PART
    prefix: ClassVar[str] = "messages[].content[]."

    type: Literal["text"] = Field(description="The only type that this server reads.")
    text: str = Field(description="The text.")

    @model_validator(mode="wrap")
    @classmethod
    def _text_only(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, dict) and isinstance(kind := data.get("type"), str) and kind in REFUSED_PARTS:
            raise unsupported("type", f"content of type {kind}: {REFUSED_PARTS[kind]}")
        return handler(data)


TextParts: TypeAlias = Annotated[list[TextPart], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)]
Content: TypeAlias = Annotated[
    Annotated[str, Tag("~string")] | Annotated[TextParts, Tag("~parts")],
    Discriminator(
        kind_of({str: "~string", list: "~parts"}),
        custom_error_type="invalid_type",
        custom_error_message="expected a string or an array of content parts",
    ),
]


def text_of(content: str | list[TextPart] | None) -> str | None:
    """Content as one string, as chat templates of text models expect it. Parts are joined by a line break."""
    return "\n".join(part.text for part in content) if isinstance(content, list) else content


class Message(RequestModel):
    """What all messages have in common."""

    prefix: ClassVar[str] = "messages[]."

    name: str | None = Field(None, max_length=256, description="Name of the participant, for templates that show it.")

    def for_template(self) -> dict[str, Any]:
        """As a chat template expects it: only what is set, content as one string."""
        message = {key: value for key in type(self).model_fields if (value := getattr(self, key)) is not None}
        return message | {"content": text_of(message.get("content"))}


class SystemMessage(Message):
    """Instructions. A developer message is given to the template as a system message."""

    role: Literal["system", "developer"] = Field(description="system, or developer as its newer name.")
    content: Content = Field(description="The instructions.")

    def for_template(self) -> dict[str, Any]:
        return super().for_template() | {"role": "system"}


class UserMessage(Message):
    """What the user says."""

    role: Literal["user"] = Field(description="user.")
    content: Content = Field(description="The text.")


class FunctionCall(RequestModel):
    """A call of a function."""

    prefix: ClassVar[str] = "messages[].tool_calls[].function."

    name: str = Field(min_length=1, max_length=256, description="Name of the function.")
    arguments: str = Field(description="Its arguments, a JSON object as text.")


class ToolCall(RequestModel):
    """A tool call that the model made earlier in the conversation."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.TOOL_CALL
    prefix: ClassVar[str] = "messages[].tool_calls[]."

    id: str = Field(max_length=256, description="Id of the call; its result names it.")
    type: Literal["function"] = Field("function", description="function.")
    index: int | None = Field(None, ge=0, description="Its place, as streamed chunks carry it.")
    function: FunctionCall = Field(description="What was called.")

    @model_validator(mode="wrap")
    @classmethod
    def _functions_only(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "custom":
            raise unsupported("type", "custom tools are not known, only functions")
        return handler(data)


class AssistantMessage(Message):
    """What the model said earlier."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.ASSISTANT_MESSAGE

    role: Literal["assistant"] = Field(description="assistant.")
    content: Content | None = Field(None, description="The text; null where there are tool calls alone.")
    reasoning_content: str | None = Field(None, description="Its reasoning, for templates that show it.")
    tool_calls: list[ToolCall] | None = Field(
        None, max_length=MOST_ITEMS, fail_fast=True, description="The tool calls it made."
    )

    def for_template(self) -> dict[str, Any]:
        """Arguments are given as an object, which is what templates print as JSON."""
        message = super().for_template()
        message.pop("tool_calls", None)
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": arguments_of(call) or {}},
                }
                for call in self.tool_calls
            ]
        return message


class ToolMessage(Message):
    """The result of a tool call."""

    role: Literal["tool"] = Field(description="tool.")
    content: Content = Field(description="The result.")
    tool_call_id: str = Field(max_length=256, description="Id of the call that this is the result of.")


def _known_role(value: Any) -> Any:
    """A union tells only which of its members a value is not; this tells what is wrong with the role."""
    role = value.get("role") if isinstance(value, dict) else None
    if role == "function":
        raise unsupported("role", "functions were superseded; use the role tool")
    if isinstance(role, str) and role not in ROLES:
        raise wrong_field("role", role, f"must be one of {', '.join(ROLES)}")
    return value


def _tag_of(value: Any) -> str:
    """Anything that has no role goes to the user schema, which says what is missing."""
    role = value.get("role") if isinstance(value, dict) else None
    if role in ("system", "developer"):
        return "~system"
    return f"~{role}" if role in ("assistant", "tool") else "~user"


AnyMessage: TypeAlias = Annotated[
    Annotated[SystemMessage, Tag("~system")]
    | Annotated[UserMessage, Tag("~user")]
    | Annotated[AssistantMessage, Tag("~assistant")]
    | Annotated[ToolMessage, Tag("~tool")],
    Discriminator(_tag_of),
    BeforeValidator(_known_role),
]


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """The call's arguments as an object; None where the text is no JSON object."""
    if not call.function.arguments.strip():
        return {}
    try:
        return msgspec.json.decode(call.function.arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None


class ChatCompletionRequest(SamplingRequest):
    """Body of ``POST /v1/chat/completions``."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.CHAT

    messages: list[AnyMessage] = Field(
        min_length=1, max_length=MOST_MESSAGES, fail_fast=True, description="The conversation so far."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Older name of max_completion_tokens; where both are given they must agree."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens to generate. Left out, it is all that the context leaves."
    )
    logprobs: bool | None = Field(None, description="Report the log-probability of every generated token.")
    top_logprobs: int | None = Field(
        None, ge=0, description="With logprobs: how many of the likeliest tokens to report at each position."
    )
    add_generation_prompt: bool | None = Field(
        None, description="End the prompt with the beginning of an assistant message. Default true."
    )
    continue_final_message: bool | None = Field(
        None, description="Leave the last message open, so that the answer continues it. Default false."
    )
    chat_template_kwargs: dict[str, JsonValue] | None = Field(
        None, description="Variables that the model's chat template reads, such as enable_thinking."
    )

    @property
    def max_output(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def max_output_param(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def generation_prompt(self) -> bool:
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    def template_messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates expect them."""
        return [message.for_template() for message in self.messages]

    def check(self, limits: Limits) -> None:
        super().check(limits)
        at_most(self.top_logprobs, limits.max_logprobs, "top_logprobs")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "'top_logprobs' is only allowed where 'logprobs' is true.", param="top_logprobs", code="invalid_value"
            )
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise InvalidRequest(
                "'max_tokens' and 'max_completion_tokens' differ. Set one of them.",
                param="max_tokens",
                code="invalid_value",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "'add_generation_prompt' and 'continue_final_message' exclude each other.",
                param="continue_final_message",
                code="invalid_value",
            )
        for at, message in enumerate(self.messages):
            if isinstance(message, AssistantMessage):
                _check_assistant(message, f"messages[{at}]")


def _check_assistant(message: AssistantMessage, path: str) -> None:
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(
            f"Missing required parameter: '{path}.content' (it may be null only beside tool calls).",
            param=f"{path}.content",
            code="missing_required_parameter",
        )
    for at, call in enumerate(message.tool_calls or []):
        if arguments_of(call) is None:
            param = f"{path}.tool_calls[{at}].function.arguments"
            raise InvalidRequest(
                f"Invalid '{param}': must be a JSON object, as text.", param=param, code="invalid_json"
            )
