"""The request schema of ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import Discriminator, Field, PlainValidator, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.protocol import fields
from gateway.protocol.base import WRONG_TYPE, whole, wrong_field, wrong_item
from gateway.protocol.constrained import ConstrainedRequest
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limited, Limits, at_most, at_most_items, flag_of, shorten
from gateway.protocol.sampling import TokenId

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""
LARGEST_TOKEN_ID = 2**31
TOKENS_SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": LARGEST_TOKEN_ID}}


def _prompt_kind(value: Any) -> str | None:
    """By the first item; the others are then checked against it."""
    if isinstance(value, str):
        return "~string"
    if not isinstance(value, list):
        return None
    match value[:1]:
        case [str()]:
            return "~strings"
        case [list()]:
            return "~token_lists"
        case _:
            return "~tokens"


def _prompt_ids(value: Any) -> list[int]:
    if value == []:
        raise PydanticKnownError("too_short", {"field_type": "List", "min_length": 1, "actual_length": 0})
    return _token_ids(value)


def _token_ids(value: Any) -> list[int]:
    """Token ids by the list: a prompt may hold a million, and the event loop waits for each of them."""
    if not isinstance(value, list):
        raise PydanticCustomError(WRONG_TYPE, "expected an array of token ids")
    ids: list[int] = whole(value)
    if not ids:
        return ids
    if set(map(type, ids)) != {int}:
        at = next(at for at, token in enumerate(ids) if type(token) is not int)
        raise wrong_item(at, ids[at], "an integer")
    if min(ids) < 0 or max(ids) >= LARGEST_TOKEN_ID:
        at = next(at for at, token in enumerate(ids) if not 0 <= token < LARGEST_TOKEN_ID)
        raise wrong_field(at, ids[at], "token ids lie between 0 and the size of the vocabulary")
    return ids


Tokens = Annotated[list[TokenId], PlainValidator(_prompt_ids), WithJsonSchema(TOKENS_SCHEMA | {"minItems": 1})]
AnyTokens = Annotated[list[TokenId], PlainValidator(_token_ids), WithJsonSchema(TOKENS_SCHEMA)]
"""Also none at all."""
MANY = Limited("maxItems", "max_prompts")
Prompt = Annotated[
    Annotated[str, Tag("~string")]
    | Annotated[list[str], Field(fail_fast=True, json_schema_extra={"minItems": 1}), MANY, Tag("~strings")]
    | Annotated[Tokens, Tag("~tokens")]
    | Annotated[list[Tokens], Field(fail_fast=True, json_schema_extra={"minItems": 1}), MANY, Tag("~token_lists")],
    Discriminator(
        _prompt_kind,
        custom_error_type=WRONG_TYPE,
        custom_error_message="expected a string, an array of strings, of token ids, or of arrays of token ids",
    ),
]


class CompletionRequest(ConstrainedRequest):
    """Body of ``POST /v1/completions``."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.COMPLETION

    prompt: Prompt = Field(description="Text or token ids to continue, or a list of either.")
    max_tokens: int | None = Field(
        None, ge=0, description="Most tokens to generate. 0 scores the prompt alone, with echo. Default 16."
    )
    logprobs: Annotated[int, Limited("maximum", "max_logprobs")] | None = Field(
        None,
        ge=0,
        description="Report the log-probability of every generated token, of those too that ended the answer, and this "
        "many of the likeliest tokens at each position.",
    )
    echo: bool | None = Field(None, description="Put the prompt before the answer; with logprobs, score it too.")
    suffix: str | None = Field(
        None,
        description="Text that is to follow the answer, for models that can fill in; others refuse it. For prompts "
        "given as text, without echo.",
    )
    best_of: Annotated[int, Limited("maximum", "max_n")] | None = Field(
        None,
        ge=1,
        description="Generate so many answers to each prompt, and give the n of the highest mean log-probability, best "
        "first. All are counted. Not for streams. Default n.",
    )
    add_special_tokens: bool | None = Field(
        None, description="Let the tokenizer add what it adds by itself, such as a first token. Default true."
    )

    @property
    def texts(self) -> list[str]:
        """The prompts, where they were given as text."""
        match self.prompt:
            case str():
                return [self.prompt]
            case [str(), *_]:
                return [prompt for prompt in self.prompt if isinstance(prompt, str)]
            case _:
                return []

    @property
    def token_lists(self) -> list[list[int]]:
        """The prompts, where they were given as token ids."""
        match self.prompt:
            case [int(), *_]:
                # The schema has seen to it that all of them are integers.
                return [cast("list[int]", self.prompt)]
            case [list(), *_]:
                return [prompt for prompt in self.prompt if isinstance(prompt, list)]
            case _:
                return []

    @property
    def prompt_params(self) -> list[str]:
        """The place of each prompt in the request."""
        count = len(self.texts) + len(self.token_lists)
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return [f"prompt[{at}]" for at in range(count)] if several else ["prompt"]

    @property
    def num_generated(self) -> int:
        """Choices of each prompt."""
        return self.num_choices if self.best_of is None else self.best_of

    @property
    def engine_logprobs(self) -> int | None:
        """What the engine has to report: to choose among answers takes their scores."""
        return 0 if self.logprobs is None and self.num_generated > self.num_choices else self.logprobs

    @property
    def engine_prompt_logprobs(self) -> int | None:
        """The same of the prompt; each reader takes as many of the likeliest as it shows."""
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((each for each in wanted if each is not None), default=None)

    @property
    def scores_only(self) -> bool:
        """The prompt is echoed and nothing is generated after it."""
        return bool(self.echo) and self.max_tokens == 0

    @classmethod
    def check_sizes(cls, data: Mapping[str, Any], limits: Limits) -> None:
        super().check_sizes(data, limits)
        if _prompt_kind(prompt := data.get("prompt")) in ("~strings", "~token_lists"):
            at_most_items(prompt, limits, "max_prompts", "prompt", "prompts")

    def check(self, limits: Limits) -> None:
        super().check(limits)
        at_most(self.logprobs, limits, "max_logprobs", "logprobs")
        self._check_best_of(limits)
        self._check_sequences(limits)
        self._check_suffix()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "Invalid 'max_tokens': 0 is allowed only with echo.", param="max_tokens", code="integer_below_min_value"
            )
        if self.scores_only and self.min_tokens:
            raise InvalidRequest(
                f"Invalid 'min_tokens': {shorten(self.min_tokens)} is more than 'max_tokens', which is 0.",
                param="min_tokens",
                code="integer_above_max_value",
            )

    def _check_best_of(self, limits: Limits) -> None:
        at_most(self.best_of, limits, "max_n", "best_of")
        if self.num_generated < self.num_choices:
            raise InvalidRequest(
                f"Invalid 'best_of': must be at least n, which is {self.num_choices}, but got {self.best_of}.",
                param="best_of",
                code="integer_below_min_value",
            )
        if self.stream and self.num_generated > self.num_choices:
            raise UnsupportedParameter(
                "'best_of' is not supported where 'stream' is true: the best is known when all have ended.",
                param="best_of",
            )

    def _check_sequences(self, limits: Limits) -> None:
        prompts = len(self.texts) + len(self.token_lists)
        if (wanted := prompts * self.num_generated) > limits.max_sequences:
            param = "n" if self.best_of is None else "best_of"
            raise InvalidRequest(
                f"Invalid '{param}': {self.num_generated} for each of {prompts} prompts are {wanted} choices, and at "
                f"most {limits.max_sequences} are allowed here ({flag_of('max_sequences')}).",
                param=param,
                code="integer_above_max_value",
            )

    def _check_suffix(self) -> None:
        if not self.suffix:
            return
        for name in ("echo", "truncate_prompt_tokens"):
            if getattr(self, name):
                raise UnsupportedParameter(f"'suffix' is not supported together with '{name}'.", param="suffix")
        if self.token_lists:
            raise UnsupportedParameter("'suffix' is supported only where 'prompt' is text.", param="suffix")
