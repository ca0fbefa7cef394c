"""The request fields that say what an answer has to look like, and which one grammar they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from pydantic import Discriminator, Field, Tag, ValidationError

from engine.grammar import json_rule, text_rule
from engine.grammar_trial_messages import Trial, TrialKind
from gateway.errors import InvalidRequest
from gateway.grammars import structural_tags
from gateway.grammars.closed_objects import close_objects
from gateway.grammars.schema_checks import check_whole_schema
from gateway.grammars.structural_formats import NotWritableError, formats_grammar
from gateway.protocol.base import RequestModel, kind_of
from gateway.protocol.fields import NoOp
from gateway.protocol.json_body import decode_text
from gateway.protocol.limits import Limited, Limits, at_most_items, at_most_length, at_most_long
from gateway.protocol.parse import explain
from gateway.protocol.response_format import (
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
    StructuralTagFormat,
    TextFormat,
    check_structures,
)
from gateway.protocol.sampling import SamplingRequest, TokenId
from gateway.protocol.structural_format import AnyPart, number_of_parts

GrammarText: TypeAlias = Annotated[str, Limited("maxLength", "max_grammar_size")]
BadWord: TypeAlias = Annotated[
    str, Field(min_length=1, json_schema_extra={"pattern": r"\S"}), Limited("maxLength", "max_stop_length")
]
"""``check`` says what is wrong with one that is white space alone."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}
_DIGITS = "-0123456789"
_FIRST = {
    "object": "{", "array": "[", "string": '"', "boolean": "tf", "null": "n", "number": _DIGITS, "integer": _DIGITS
}  # fmt: skip
"""Type → what JSON of it begins with."""
SchemaOrText: TypeAlias = Annotated[
    Annotated[dict[str, Any], Tag("~object")] | Annotated[str, Tag("~string")],
    Discriminator(
        kind_of({dict: "~object", str: "~string"}),
        custom_error_type="invalid_type",
        custom_error_message="expected a JSON Schema as an object or as a string",
    ),
]


class StructuredOutputs(RequestModel):
    """vLLM's way to say it; one of the members."""

    prefix: ClassVar[str] = "structured_outputs."
    unsupported: ClassVar[Mapping[str, NoOp]] = {
        "disable_any_whitespace": NoOp("white space in JSON is bounded, see docs/structured_output.md", (False,)),
        "disable_fallback": NoOp("there is one backend", (True, False)),
        "whitespace_pattern": NoOp("white space in JSON is bounded, see docs/structured_output.md"),
    }

    json_: SchemaOrText | None = Field(None, alias="json", description="JSON Schema, as an object or as text.")
    regex: GrammarText | None = Field(
        None, min_length=1, description="Regular expression that the whole answer matches."
    )
    choice: Annotated[list[str], Limited("maxItems", "max_choices")] | None = Field(
        None, min_length=1, description="The answer is one of these."
    )
    grammar: GrammarText | None = Field(None, min_length=1, description="Grammar in EBNF (GBNF) or Lark.")
    any_json: bool | None = Field(None, alias="json_object", description="With true, the answer is a JSON object.")
    structural_tag: str | None = Field(None, description="The response_format of that type, as JSON text.")
    disable_additional_properties: bool | None = Field(
        None,
        description="With false, objects by json may have members that the schema does not name. Default true: only "
        "where it says so itself.",
    )

    @property
    def given(self) -> list[str]:
        """Names of the members that ask for something."""
        values = {
            "json": self.json_,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
            "json_object": self.any_json or None,
            "structural_tag": self.structural_tag,
        }
        return [name for name, value in values.items() if value is not None]


class Wanted(msgspec.Struct, frozen=True):
    """What the answer has to look like, to be tried."""

    param: str
    """The field that says so."""
    trial: Trial
    begins: str | None = None
    """Characters that one of its answers begins with, white space aside; None where that is not known."""


class ConstrainedRequest(SamplingRequest):
    """Fields of both endpoints that rule tokens out."""

    response_format: ResponseFormat | None = Field(
        None, description="Form of the answer: text, json_object, json_schema or structural_tag."
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="The same with one of json, regex, choice, grammar, json_object or structural_tag."
    )
    bad_words: Annotated[list[BadWord], Limited("maxItems", "max_logit_bias")] | None = Field(
        None, description="Words that are not generated, each alone and after a space."
    )
    allowed_token_ids: Annotated[list[TokenId], Limited("maxItems", "max_logit_bias")] | None = Field(
        None,
        min_length=1,
        description="No other tokens are generated; an answer can end if a stop token is among them.",
    )

    def wanted(self, limits: Limits) -> Wanted | None:
        """Raises InvalidRequest where it cannot be, before anything is compiled. None where any text will do."""
        found = [each for each in (self._by_format(limits), self._by_structured_outputs(limits)) if each is not None]
        if not found:
            return None
        if len(found) > 1:
            raise _refuse("structured_outputs", "it excludes 'response_format', and both are given")
        self.refuse_another_end(found[0].param)
        return found[0]

    @property
    def has_form(self) -> bool:
        """Whether the answer has to be of some form."""
        outputs = self.structured_outputs
        return self.response_format not in (None, TextFormat(type="text")) or bool(outputs and outputs.given)

    @property
    def form_param(self) -> str | None:
        """The field that says of what form the answer has to be, where one does."""
        if self.structured_outputs and (given := self.structured_outputs.given):
            return f"structured_outputs.{given[0]}"
        return "response_format" if self.has_form else None

    def refuse_another_end(self, param: str) -> None:
        """Raises InvalidRequest where a field other than ``param`` says when the answer may end."""
        for name in ("ignore_eos", "min_tokens"):
            if getattr(self, name):
                raise _refuse(name, f"'{param}' says when the answer may end, and this would not let it")

    @classmethod
    def check_sizes(cls, data: Mapping[str, Any], limits: Limits) -> None:
        super().check_sizes(data, limits)
        at_most_items(data.get("bad_words"), limits, "max_logit_bias", "bad_words", "words")
        check_structures(data.get("response_format"), "response_format", limits)
        at_most_items(data.get("allowed_token_ids"), limits, "max_logit_bias", "allowed_token_ids", "ids")
        outputs = data.get("structured_outputs")
        if isinstance(outputs, dict):
            at_most_items(outputs.get("choice"), limits, "max_choices", "structured_outputs.choice", "strings")

    def check(self, limits: Limits) -> None:
        super().check(limits)
        for word in self.bad_words or []:
            if not word.strip():
                raise _refuse("bad_words", "a word must hold more than white space")
            at_most_long(word, limits, "max_stop_length", "bad_words")

    def _by_format(self, limits: Limits) -> Wanted | None:
        match self.response_format:
            case JsonObjectFormat():
                return _json(ANY_OBJECT, "response_format", limits)
            case JsonSchemaFormat(json_schema=given):
                schema = ANY_OBJECT if given.schema_ is None else given.schema_
                return _json(schema, "response_format.json_schema.schema", limits)
            case StructuralTagFormat() as tags:
                return _tags(tags, "response_format", limits)
            case _:
                return None

    def _by_structured_outputs(self, limits: Limits) -> Wanted | None:
        given = self.structured_outputs
        if given is None or not given.given:
            return None
        if len(given.given) > 1:
            raise _refuse("structured_outputs", f"one of its members counts, but it has {', '.join(given.given)}")
        name = given.given[0]
        param = f"structured_outputs.{name}"
        match name:
            case "json":
                closed = given.disable_additional_properties is not False
                return _json(_object(given.json_, param, limits), param, limits, closed=closed)
            case "json_object":
                return _json(ANY_OBJECT, param, limits)
            case "regex":
                return _text("regex", given.regex or "", param, limits)
            case "grammar":
                return _text("ebnf", given.grammar or "", param, limits)
            case "choice":
                choices = given.choice or []
                rule = " | ".join(map(text_rule, choices))
                begins = "".join({choice.lstrip()[:1] for choice in choices})
                return _text("lark", f"start: {rule}\n", param, limits, begins)
            case _:
                tags = _object(given.structural_tag, param, limits)
                return _tags(_tag_format(tags, param, limits), param, limits)


def _json(schema: dict[str, Any], param: str, limits: Limits, *, closed: bool = True) -> Wanted:
    at_most_long(msgspec.json.encode(schema).decode(), limits, "max_grammar_size", param)
    check_whole_schema(schema, param, limits.max_schema_depth)
    kind = schema.get("type")
    begins = _FIRST.get(kind) if isinstance(kind, str) else None
    source = msgspec.json.encode(close_objects(schema) if closed else schema).decode()
    return Wanted(param, Trial(kind="json_schema", source=source), begins)


def _text(kind: TrialKind, source: str, param: str, limits: Limits, begins: str | None = None) -> Wanted:
    at_most_long(source, limits, "max_grammar_size", param)
    return Wanted(param, Trial(kind=kind, source=source), begins)


def _tags(given: StructuralTagFormat, param: str, limits: Limits) -> Wanted:
    if given.format is not None:
        for name in ("structures", "triggers"):
            if getattr(given, name) is not None:
                raise _refuse(f"{param}.{name}", "it excludes format, and both are given")
        return _tree(given.format, param, limits)
    if given.structures is None or given.triggers is None:
        missing = f"{param}.{'structures' if given.structures is None else 'triggers'}"
        message = f"Missing required parameter: '{missing}', or instead of structures and triggers, a format."
        raise InvalidRequest(message, param=missing, code="missing_required_parameter")
    tags = []
    for at, structure in enumerate(given.structures):
        check_whole_schema(structure.schema_, f"{param}.structures[{at}].schema", limits.max_schema_depth)
        tag = structural_tags.Tag(structure.begin, close_objects(structure.schema_), structure.end)
        if structural_tags.trigger_of(tag, given.triggers) is None:
            raise _refuse(f"{param}.structures[{at}].begin", "it begins with none of the triggers")
        tags.append(tag)
    wanted = _text("lark", structural_tags.tags_grammar(tags, given.triggers), param, limits)
    parts = tuple((f".structures[{at}].schema", json_rule(tag.schema)) for at, tag in enumerate(tags))
    return Wanted(param, msgspec.structs.replace(wanted.trial, parts=parts))


def _tree(given: AnyPart, param: str, limits: Limits) -> Wanted:
    at_most_length(number_of_parts(given), "formats", limits, "max_structures", f"{param}.format")
    try:
        written = formats_grammar(given.build(f"{param}.format", limits))
    except NotWritableError as error:
        raise _refuse(f"{param}.format{error.path}", str(error)) from None
    length = len(written.source) + sum(len(own) for _, own, _ in written.embedded)
    at_most_length(length, "characters of the grammar that it makes", limits, "max_grammar_size", param)
    embedded = tuple((at, own, f".format{path}") for at, own, path in written.embedded)
    parts = tuple((f".format{path}", rule) for path, rule in written.parts)
    return Wanted(param, Trial(kind="lark", source=written.source, embedded=embedded, parts=parts))


def _tag_format(tags: dict[str, Any], param: str, limits: Limits) -> StructuralTagFormat:
    check_structures(tags, param, limits)
    try:
        return StructuralTagFormat.model_validate(tags)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        details["loc"] = (param, *details["loc"])
        raise explain(details) from None


def _object(given: dict[str, Any] | str | None, param: str, limits: Limits) -> dict[str, Any]:
    if not isinstance(given, str):
        return given or {}
    at_most_long(given, limits, "max_grammar_size", param)
    return decode_text(given, param, limits)


def _refuse(param: str, why: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {why}.", param=param, code=code)
