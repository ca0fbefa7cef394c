"""The field ``response_format``, in each of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from gateway.protocol.base import RequestModel, wrong_field
from gateway.protocol.limits import Limited, Limits, at_most_items
from gateway.protocol.structural_format import AnyPart

Trigger: TypeAlias = Annotated[str, Field(min_length=1)]
FORMATS = ("text", "json_object", "json_schema", "structural_tag")


class Structure(RequestModel):
    """One structural tag."""

    prefix: ClassVar[str] = "response_format.structures[]."

    begin: Annotated[str, Field(min_length=1)] = Field(description="How it begins.")
    schema_: dict[str, Any] = Field(alias="schema", description="JSON Schema of what stands in it.")
    end: str = Field(description="How it ends.")


class TextFormat(RequestModel):
    """Any text."""

    prefix: ClassVar[str] = "response_format."

    type: Literal["text"] = Field(description="text: the answer may be any text.")


class JsonObjectFormat(RequestModel):
    """Any JSON object."""

    prefix: ClassVar[str] = "response_format."

    type: Literal["json_object"] = Field(description="json_object: the answer is a JSON object.")


class JsonSchema(RequestModel):
    """A named schema."""

    prefix: ClassVar[str] = "response_format.json_schema."

    name: str = Field(
        pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="Letters, digits, _ and -, 64 at most, as OpenAI's."
    )
    description: str | None = Field(None, description="For people; the model is not shown it.")
    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="The JSON Schema. Left out, any JSON object will do."
    )
    strict: bool | None = Field(None, description="The schema is always enforced, whatever this says.")


class JsonSchemaFormat(RequestModel):
    """JSON by a schema."""

    prefix: ClassVar[str] = "response_format."

    type: Literal["json_schema"] = Field(description="json_schema: the answer is JSON that the schema holds for.")
    json_schema: JsonSchema = Field(description="The schema and its name.")


class StructuralTagFormat(RequestModel):
    """Free text with structured parts."""

    prefix: ClassVar[str] = "response_format."
    demands: ClassVar[Mapping[str, Any]] = {
        "oneOf": [
            {"required": ["format"], "properties": {"structures": {"type": "null"}, "triggers": {"type": "null"}}},
            {
                "required": ["structures", "triggers"],
                "properties": {
                    "structures": {"type": "array"},
                    "triggers": {"type": "array"},
                    "format": {"type": "null"},
                },
            },
        ]
    }

    type: Literal["structural_tag"] = Field(description="structural_tag: text in which triggers begin structures.")
    structures: Annotated[list[Structure], Field(min_length=1), Limited("maxItems", "max_structures")] | None = Field(
        None, description="The structured parts; each begins with one of the triggers."
    )
    triggers: Annotated[list[Trigger], Field(min_length=1), Limited("maxItems", "max_structures")] | None = Field(
        None, description="Texts after which a structure has to follow."
    )
    format: AnyPart | None = Field(None, description="All of the answer as a tree of formats, instead of these two.")


def _known_format(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind not in FORMATS:
        raise wrong_field("type", kind, f"must be one of {', '.join(FORMATS)}")
    return value


def _format_tag(value: Any) -> str:
    """Anything of no known type goes to the first schema, which says what is wrong."""
    kind = value.get("type") if isinstance(value, dict) else None
    return f"~{kind}" if kind in FORMATS else "~text"


ResponseFormat: TypeAlias = Annotated[
    Annotated[TextFormat, Tag("~text")]
    | Annotated[JsonObjectFormat, Tag("~json_object")]
    | Annotated[JsonSchemaFormat, Tag("~json_schema")]
    | Annotated[StructuralTagFormat, Tag("~structural_tag")],
    Discriminator(_format_tag),
    BeforeValidator(_known_format),
]


def check_structures(value: Any, param: str, limits: Limits) -> None:
    """Of the JSON value that is to become a format. Raises ``InvalidRequest`` where it has too many of something."""
    if isinstance(value, dict):
        for name in ("structures", "triggers"):
            at_most_items(value.get(name), limits, "max_structures", f"{param}.{name}", name)
