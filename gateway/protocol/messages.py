"""The messages of a conversation, as a request carries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gateway.errors import InvalidRequest
from gateway.protocol import fields
from gateway.protocol.base import Longest, RequestModel, kind_of, unsupported, wrong_field
from gateway.protocol.fields import NoOp
from gateway.protocol.json_body import check_text
from gateway.protocol.limits import Limited, Limits, at_most_items, shorten

ROLES = ("system", "developer", "user", "assistant", "tool")
REFUSED_PARTS = {
    "image_url": "this server reads text only",
    "input_audio": "this server reads text only",
    "audio_url": "this server reads text only",
    "video_url": "this server reads text only",
    "file": "this server reads text only",
    "refusal": "a refusal is ordinary text here; send it as text",
}


Name: TypeAlias = Annotated[str, Longest("max_name_length")]


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


ITEMS = Limited("maxItems", "max_message_items")
TextParts: TypeAlias = Annotated[list[TextPart], Field(min_length=1, fail_fast=True), ITEMS]
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

    role: str = Field(description="Who says it.")
    name: Name | None = Field(None, description="Name of the participant, for templates that show it.")

    @property
    def role_for_template(self) -> str:
        """Under which a chat template knows it."""
        return "system" if self.role == "developer" else self.role

    def for_template(self) -> dict[str, Any]:
        """As a chat template expects it: only what is set, content as one string."""
        message = {key: value for key in type(self).model_fields if (value := getattr(self, key)) is not None}
        return message | {"content": text_of(message.get("content"))}


class SystemMessage(Message):
    """Instructions. A developer message is given to the template as a system message."""

    role: Literal["system", "developer"] = Field(description="system, or developer as its newer name.")
    content: Content = Field(description="The instructions.")

    def for_template(self) -> dict[str, Any]:
        return super().for_template() | {"role": self.role_for_template}


class UserMessage(Message):
    """What the user says."""

    role: Literal["user"] = Field(description="user.")
    content: Content = Field(description="The text.")


class FunctionCall(RequestModel):
    """A call of a function."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.CALLED_FUNCTION
    prefix: ClassVar[str] = "messages[].tool_calls[].function."

    name: Name = Field(min_length=1, description="Name of the function.")
    arguments: str = Field(description="Its arguments, a JSON object as text.")


class ToolCall(RequestModel):
    """A tool call that the model made earlier in the conversation."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.TOOL_CALL
    prefix: ClassVar[str] = "messages[].tool_calls[]."

    id: Name = Field(description="Id of the call; its result names it.")
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
    demands: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"required": ["content"]},
            {"required": ["reasoning_content"]},
            {"required": ["reasoning"]},
            {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
        ]
    }

    role: Literal["assistant"] = Field(description="assistant.")
    content: Content | None = Field(None, description="The text; null where there is none.")
    reasoning_content: str | None = Field(None, description="Its reasoning, for templates that show it.")
    reasoning: str | None = Field(None, description="Another name of reasoning_content.")
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), ITEMS] | None = Field(
        None, description="The tool calls it made."
    )

    @property
    def has_reasoning(self) -> bool:
        return bool(self.reasoning_content or self.reasoning)

    def for_template(self) -> dict[str, Any]:
        """Arguments are given as an object, which templates print as JSON, or as they are where they are none."""
        message = super().for_template()
        message.pop("tool_calls", None)
        if (reasoning := message.pop("reasoning", None)) is not None:
            message.setdefault("reasoning_content", reasoning)
        if self.content is None and not self.tool_calls:
            message["content"] = ""
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": arguments_of(call)},
                }
                for call in self.tool_calls
            ]
        return message


class ToolMessage(Message):
    """The result of a tool call."""

    role: Literal["tool"] = Field(description="tool.")
    content: Content = Field(description="The result.")
    tool_call_id: Name = Field(description="Id of the call that this is the result of.")


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
Messages: TypeAlias = Annotated[
    list[AnyMessage], Field(min_length=1, fail_fast=True), Limited("maxItems", "max_messages")
]


def check_message_sizes(messages: Any, limits: Limits) -> None:
    """Of the JSON value that is to become messages. Raises ``InvalidRequest`` where there are too many of something."""
    at_most_items(messages, limits, "max_messages", "messages", "messages")
    for at, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict):
            for name, what in (("content", "parts"), ("tool_calls", "calls")):
                at_most_items(message.get(name), limits, "max_message_items", f"messages[{at}].{name}", what)


def arguments_of(call: ToolCall) -> dict[str, Any] | str:
    """The call's arguments, which have been checked, as an object; the text itself where it is none.

    A model's call may be cut, or wrong, and who reports that to it sends the call as it was.
    """
    text = call.function.arguments
    try:
        arguments = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeError):
        return text
    return arguments if isinstance(arguments, dict) else text


def check_messages(messages: Sequence[AnyMessage], limits: Limits) -> None:
    """What the schema of one message cannot say. Raises ``InvalidRequest``."""
    calls: set[str] = set()
    for at, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            _check_assistant(message, f"messages[{at}]", limits)
            calls.update(call.id for call in message.tool_calls or [])
        elif isinstance(message, ToolMessage) and message.tool_call_id not in calls:
            param = f"messages[{at}].tool_call_id"
            raise InvalidRequest(
                f"Invalid '{param}': must be the id of a tool call in an assistant message before it, but got "
                f"{shorten(message.tool_call_id)}.",
                param=param,
                code="invalid_value",
            )


def _check_assistant(message: AssistantMessage, path: str, limits: Limits) -> None:
    given = {"content", "reasoning_content", "reasoning"} & message.model_fields_set
    if not given and not message.tool_calls:
        raise InvalidRequest(
            f"Missing required parameter: '{path}.content'.",
            param=f"{path}.content",
            code="missing_required_parameter",
        )
    for at, call in enumerate(message.tool_calls or []):
        check_text(call.function.arguments, f"{path}.tool_calls[{at}].function.arguments", limits)
