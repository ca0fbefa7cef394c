"""The tools that a request offers to the model, and which of them it is to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from gateway.errors import InvalidRequest
from gateway.protocol import fields
from gateway.protocol.base import RequestModel, unsupported
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limits, at_most_items, at_most_long, shorten

_to_json = msgspec.json.Encoder().encode


class FunctionTool(RequestModel):
    """A function that the model may call."""

    prefix: ClassVar[str] = "tools[].function."

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Its name: letters, digits, _ . and -, 64 of them at most, as OpenAI's.",
    )
    description: str | None = Field(None, description="What it does, for the model to read.")
    parameters: dict[str, JsonValue] | None = Field(
        None, description="JSON Schema of its arguments, an object. Left out, it has none."
    )
    strict: bool | None = Field(None, description="Hold the arguments to the schema. Default false.")


class Tool(RequestModel):
    """One of the tools."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.TOOL
    prefix: ClassVar[str] = "tools[]."

    type: Literal["function"] = Field(description="function.")
    function: FunctionTool = Field(description="The function.")

    @model_validator(mode="wrap")
    @classmethod
    def _functions_only(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "custom":
            raise unsupported("type", "custom tools are not known, only functions")
        return handler(data)

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: what describes the function, and nothing of how it is to be called."""
        function: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        function["parameters"] = self.function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}

    def parameter_types(self) -> dict[str, str]:
        """Parameter → its JSON type, where the schema names one."""
        properties = (self.function.parameters or {}).get("properties")
        if not isinstance(properties, dict):
            return {}
        types = {name: each.get("type") for name, each in properties.items() if isinstance(each, dict)}
        return {name: kind for name, kind in types.items() if isinstance(kind, str)}


class NamedFunction(RequestModel):
    """The function to call."""

    prefix: ClassVar[str] = "tool_choice.function."

    name: str = Field(description="Its name, one of the tools'.")


class NamedChoice(RequestModel):
    """The one tool that is to be called."""

    prefix: ClassVar[str] = "tool_choice."

    type: Literal["function"] = Field(description="function.")
    function: NamedFunction = Field(description="The function.")

    @model_validator(mode="wrap")
    @classmethod
    def _functions_only(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "custom":
            raise unsupported("type", "custom tools are not known, only functions")
        return handler(data)


class AllowedFunction(RequestModel):
    """A function that may be called."""

    prefix: ClassVar[str] = "tool_choice.allowed_tools.tools[].function."

    name: str = Field(description="Its name, one of the tools'.")


class AllowedTool(RequestModel):
    """A tool that may be called."""

    prefix: ClassVar[str] = "tool_choice.allowed_tools.tools[]."

    type: Literal["function"] = Field(description="function.")
    function: AllowedFunction = Field(description="The function.")

    @model_validator(mode="wrap")
    @classmethod
    def _functions_only(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, dict) and isinstance(kind := data.get("type"), str) and kind != "function":
            raise unsupported("type", f"tools of type {kind[:64]} are not known, only functions")
        return handler(data)


class AllowedTools(RequestModel):
    """Which tools may be called, and whether one has to be."""

    prefix: ClassVar[str] = "tool_choice.allowed_tools."

    mode: Literal["auto", "required"] = Field(description="auto: the model may call them; required: it has to.")
    tools: list[AllowedTool] = Field(min_length=1, description="Some of the tools.")


class AllowedChoice(RequestModel):
    """Some of the tools."""

    prefix: ClassVar[str] = "tool_choice."

    type: Literal["allowed_tools"] = Field(description="allowed_tools.")
    allowed_tools: AllowedTools = Field(description="Which ones.")

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.function.name for tool in self.allowed_tools.tools)


def _choice_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "~string"
    if not isinstance(value, dict):
        return None
    return "~allowed" if value.get("type") == "allowed_tools" else "~named"


ToolChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~string")]
    | Annotated[NamedChoice, Tag("~named")]
    | Annotated[AllowedChoice, Tag("~allowed")],
    Discriminator(
        _choice_tag,
        custom_error_type="invalid_type",
        custom_error_message="expected a string or an object",
    ),
]


def forces_a_call(choice: ToolChoice | None) -> bool:
    """Whether the answer has to be calls."""
    if isinstance(choice, AllowedChoice):
        return choice.allowed_tools.mode == "required"
    return choice == "required" or isinstance(choice, NamedChoice)


def may_call(choice: ToolChoice | None, tool: Tool) -> bool:
    """Whether the answer may call it."""
    if isinstance(choice, AllowedChoice):
        return tool.function.name in choice.names
    return choice != "none" and (not isinstance(choice, NamedChoice) or tool.function.name == choice.function.name)


def check_tool_sizes(data: Mapping[str, Any], limits: Limits) -> None:
    """Of the body's JSON. Raises ``InvalidRequest`` where there are too many of something."""
    at_most_items(data.get("tools"), limits, "max_tools", "tools", "tools")
    choice = data.get("tool_choice")
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if isinstance(allowed, dict):
        at_most_items(allowed.get("tools"), limits, "max_tools", "tool_choice.allowed_tools.tools", "tools")


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None, limits: Limits) -> None:
    """What the schema cannot say. Raises ``InvalidRequest``."""
    names: set[str] = set()
    for at, tool in enumerate(tools):
        name = tool.function.name
        if name in names:
            raise _invalid(f"tools[{at}].function.name", f"there is a tool {shorten(name)} already")
        names.add(name)
        _check_schema(tool.function.parameters, f"tools[{at}].function.parameters", limits)
    if not tools and choice not in (None, "none", "auto"):
        raise _invalid("tool_choice", "it is only allowed where 'tools' has some")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise _invalid("tool_choice.function.name", f"there is no tool {shorten(choice.function.name)} among 'tools'")
    if isinstance(choice, AllowedChoice):
        for at, allowed in enumerate(choice.allowed_tools.tools):
            if allowed.function.name not in names:
                param = f"tool_choice.allowed_tools.tools[{at}].function.name"
                raise _invalid(param, f"there is no tool {shorten(allowed.function.name)} among 'tools'")


def _check_schema(schema: Mapping[str, Any] | None, param: str, limits: Limits) -> None:
    if schema is None:
        return
    at_most_long(_to_json(schema), limits, "max_tool_schema", param)
    if schema.get("type", "object") != "object":
        raise _invalid(f"{param}.type", "the schema of a function's arguments must be of type 'object'")
    if not isinstance(schema.get("properties", {}), dict):
        raise _invalid(f"{param}.properties", "it must be an object")


def _invalid(param: str, why: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {why}.", param=param, code=code)
