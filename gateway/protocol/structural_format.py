"""The ``format`` of a structural tag: a tree, as XGrammar documents it and vLLM takes it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from engine.grammar import GrammarError, regex_rule
from gateway.errors import InvalidRequest
from gateway.grammars import structural_formats as tree
from gateway.grammars.closed_objects import close_objects
from gateway.grammars.schema_checks import check_whole_schema
from gateway.protocol.base import RequestModel, kind_of, unsupported, wrong_field
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limited, Limits, at_most_items, at_most_long

NonEmpty: TypeAlias = Annotated[str, Field(min_length=1)]
Texts: TypeAlias = Annotated[list[NonEmpty], Limited("maxItems", "max_structures")]
Source: TypeAlias = Annotated[str, Field(min_length=1), Limited("maxLength", "max_grammar_size")]
REFUSED = {
    "dispatch": "use triggered_tags",
    **dict.fromkeys(
        ("token", "exclude_token", "any_tokens", "token_triggered_tags", "token_dispatch"),
        "only text can be named, and no tokens",
    ),
    "qwen_xml_parameter": "a schema is written as JSON; tools are written as the model writes them",
}


class Part(RequestModel):
    """One format."""

    prefix: ClassVar[str] = "response_format.format."

    @abstractmethod
    def build(self, path: str, limits: Limits) -> tree.Format:
        """``path`` is where it stands. Raises ``InvalidRequest``."""

    def parts(self) -> Iterator[Part]:
        """Those directly within."""
        return iter(())


class ConstString(Part):
    """A text."""

    type: Literal["const_string"] = Field(description="const_string: this text alone.")
    value: str = Field(description="The text.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        return tree.Text(self.value)


class SchemaPart(Part):
    """JSON by a schema."""

    unsupported: ClassVar[Mapping[str, NoOp]] = {
        "style": NoOp("a schema is written as JSON", ("json",)),
        "any_order": NoOp("properties come in the schema's order", (False,)),
    }

    type: Literal["json_schema"] = Field(description="json_schema: JSON that the schema holds for.")
    json_schema: dict[str, Any] = Field(description="The schema.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        check_whole_schema(self.json_schema, f"{path}.json_schema", limits.max_schema_depth)
        return tree.Json(close_objects(self.json_schema))


class RegexPart(Part):
    """A regular expression."""

    type: Literal["regex"] = Field(description="regex: text that the expression matches as a whole.")
    pattern: Source = Field(description="The expression.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        at_most_long(self.pattern, limits, "max_grammar_size", f"{path}.pattern")
        if any(sign in self.pattern for sign in "\0\1"):
            raise _invalid(f"{path}.pattern", "it must not hold control characters as they are")
        try:
            # Where it begins and ends is said by the format.
            return tree.Pattern(regex_rule(self.pattern if "|" in self.pattern else _without_anchors(self.pattern)))
        except GrammarError as error:
            raise _invalid(f"{path}.pattern", str(error), code="invalid_grammar") from None


class GrammarPart(Part):
    """A grammar."""

    type: Literal["grammar"] = Field(description="grammar: text by a grammar in EBNF (GBNF) or Lark.")
    grammar: Source = Field(description="The grammar.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        at_most_long(self.grammar, limits, "max_grammar_size", f"{path}.grammar")
        return tree.OwnGrammar(self.grammar)


class AnyTextPart(Part):
    """Any text."""

    unsupported: ClassVar[Mapping[str, NoOp]] = {"max_tokens": NoOp("tokens are counted for the whole answer alone")}

    type: Literal["any_text"] = Field(description="any_text: any text, up to the end of the tag around it.")
    excludes: Texts | None = Field(None, description="Texts that it does not hold.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        at_most_items(self.excludes, limits, "max_structures", f"{path}.excludes", "texts")
        return tree.AnyText(tuple(self.excludes or ()))


class ElementsPart(Part):
    """Several formats."""

    elements: Annotated[list[AnyPart], Field(min_length=1), Limited("maxItems", "max_structures")] = Field(
        description="The formats."
    )

    def parts(self) -> Iterator[Part]:
        return iter(self.elements)

    def built(self, path: str, limits: Limits) -> tuple[tree.Format, ...]:
        return tuple(each.build(f"{path}.elements[{at}]", limits) for at, each in enumerate(self.elements))


class SequencePart(ElementsPart):
    """One after the other."""

    type: Literal["sequence"] = Field(description="sequence: one after the other.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        return tree.Sequenced(self.built(path, limits))


class OrPart(ElementsPart):
    """One of several."""

    type: Literal["or"] = Field(description="or: one of them.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        return tree.Either(self.built(path, limits))


class RepeatedPart(Part):
    """A format so many times."""

    content: AnyPart = Field(description="The format.")

    @property
    @abstractmethod
    def times(self) -> tuple[int, int | None]:
        """(least, most)."""

    def parts(self) -> Iterator[Part]:
        yield self.content

    def build(self, path: str, limits: Limits) -> tree.Format:
        least, most = self.times
        if most is not None and most < least:
            raise _invalid(f"{path}.max", f"must be at least min, which is {least}, or -1")
        return tree.Repeated(self.content.build(f"{path}.content", limits), least, most)


class OptionalPart(RepeatedPart):
    """Once or not at all."""

    type: Literal["optional"] = Field(description="optional: once or not at all.")
    times: ClassVar = (0, 1)


class PlusPart(RepeatedPart):
    """Once or more."""

    type: Literal["plus"] = Field(description="plus: once or more.")
    times: ClassVar = (1, None)


class StarPart(RepeatedPart):
    """Any number of times."""

    type: Literal["star"] = Field(description="star: any number of times.")
    times: ClassVar = (0, None)


class RepeatPart(RepeatedPart):
    """So many times."""

    type: Literal["repeat"] = Field(description="repeat: from min to max times.")
    min: int = Field(ge=0, lt=2**16, description="Least number of times.")
    max: int = Field(ge=-1, lt=2**16, description="Greatest number of times; -1 for no bound.")

    @property
    def times(self) -> tuple[int, int | None]:
        return self.min, None if self.max < 0 else self.max


class TagPart(Part):
    """Something between two texts."""

    type: Literal["tag"] = Field("tag", description="tag: begin, content, end.")
    begin: str = Field(description="What it begins with.")
    content: AnyPart = Field(description="What stands in it.")
    end: Annotated[
        Annotated[str, Tag("~string")] | Annotated[list[str], Field(min_length=1), Tag("~strings")],
        Discriminator(
            kind_of({str: "~string", list: "~strings"}),
            custom_error_type="invalid_type",
            custom_error_message="expected a string or an array of strings",
        ),
    ] = Field(description="What it ends with, or several texts of which one does.")

    @model_validator(mode="wrap")
    @classmethod
    def _texts_only(cls, data: Any, handler: Any) -> Any:
        for name in ("begin", "end"):
            if isinstance(data, dict) and isinstance(data.get(name), dict):
                raise unsupported(name, "only text can be named, and no tokens")
        return handler(data)

    def parts(self) -> Iterator[Part]:
        yield self.content

    def build(self, path: str, limits: Limits) -> tree.Tagged:
        ends = (self.end,) if isinstance(self.end, str) else tuple(self.end)
        return tree.Tagged(self.begin, self.content.build(f"{path}.content", limits), ends)


class TagsPart(Part):
    """Several tags."""

    tags: Annotated[list[TagPart], Field(min_length=1), Limited("maxItems", "max_structures")] = Field(
        description="The tags."
    )
    at_least_one: bool | None = Field(None, description="Whether it begins with a tag. Default false.")
    stop_after_first: bool | None = Field(None, description="Whether it ends with the first tag. Default false.")

    def parts(self) -> Iterator[Part]:
        return iter(self.tags)

    def built(self, path: str, limits: Limits) -> tuple[tree.Tagged, ...]:
        return tuple(tag.build(f"{path}.tags[{at}]", limits) for at, tag in enumerate(self.tags))


class TriggeredTagsPart(TagsPart):
    """Text in which triggers begin tags."""

    type: Literal["triggered_tags"] = Field(description="triggered_tags: text in which triggers begin tags.")
    triggers: Annotated[list[NonEmpty], Field(min_length=1), Limited("maxItems", "max_structures")] = Field(
        description="Texts after which a tag has to follow that begins with it."
    )
    excludes: Texts | None = Field(None, description="Texts that the text between tags does not hold.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        at_most_items(self.triggers, limits, "max_structures", f"{path}.triggers", "triggers")
        at_most_items(self.excludes, limits, "max_structures", f"{path}.excludes", "texts")
        return tree.Triggered(
            tuple(self.triggers),
            self.built(path, limits),
            bool(self.at_least_one),
            bool(self.stop_after_first),
            tuple(self.excludes or ()),
        )


class TagsWithSeparatorPart(TagsPart):
    """Tags with a text between them."""

    type: Literal["tags_with_separator"] = Field(description="tags_with_separator: tags, and a text between them.")
    separator: str = Field(description="The text.")

    def build(self, path: str, limits: Limits) -> tree.Format:
        tags = self.built(path, limits)
        return tree.Separated(tags, self.separator, bool(self.at_least_one), bool(self.stop_after_first))


KINDS: dict[str, type[Part]] = {
    "const_string": ConstString,
    "json_schema": SchemaPart,
    "regex": RegexPart,
    "grammar": GrammarPart,
    "any_text": AnyTextPart,
    "sequence": SequencePart,
    "or": OrPart,
    "optional": OptionalPart,
    "plus": PlusPart,
    "star": StarPart,
    "repeat": RepeatPart,
    "tag": TagPart,
    "triggered_tags": TriggeredTagsPart,
    "tags_with_separator": TagsWithSeparatorPart,
}


def _known_kind(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in REFUSED:
        raise unsupported("type", f"formats of type {kind}: {REFUSED[kind]}")
    if isinstance(kind, str) and kind not in KINDS:
        raise wrong_field("type", kind, f"must be one of {', '.join(KINDS)}")
    return value


def _kind_tag(value: Any) -> str:
    """Anything of no known type goes to the first schema, which says what is wrong."""
    kind = value.get("type") if isinstance(value, dict) else None
    return f"~{kind}" if isinstance(kind, str) and kind in KINDS else "~const_string"


AnyPart: TypeAlias = Annotated[
    Annotated[ConstString, Tag("~const_string")]
    | Annotated[SchemaPart, Tag("~json_schema")]
    | Annotated[RegexPart, Tag("~regex")]
    | Annotated[GrammarPart, Tag("~grammar")]
    | Annotated[AnyTextPart, Tag("~any_text")]
    | Annotated[SequencePart, Tag("~sequence")]
    | Annotated[OrPart, Tag("~or")]
    | Annotated[OptionalPart, Tag("~optional")]
    | Annotated[PlusPart, Tag("~plus")]
    | Annotated[StarPart, Tag("~star")]
    | Annotated[RepeatPart, Tag("~repeat")]
    | Annotated[TagPart, Tag("~tag")]
    | Annotated[TriggeredTagsPart, Tag("~triggered_tags")]
    | Annotated[TagsWithSeparatorPart, Tag("~tags_with_separator")],
    Discriminator(_kind_tag),
    BeforeValidator(_known_kind),
]
_MODELS: list[type[RequestModel]] = [ElementsPart, RepeatedPart, TagsPart, *KINDS.values()]
for _model in _MODELS:
    _model.model_rebuild()


def number_of_parts(part: Part) -> int:
    """Of all formats in it, itself among them."""
    return 1 + sum(map(number_of_parts, part.parts()))


def _without_anchors(pattern: str) -> str:
    pattern = pattern.removeprefix("^")
    escaped = (len(pattern[:-1]) - len(pattern[:-1].rstrip("\\"))) % 2
    return pattern[:-1] if pattern.endswith("$") and not escaped else pattern


def _invalid(param: str, why: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {why}.", param=param, code=code)
