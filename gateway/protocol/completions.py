"""The request schema of ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.protocol import fields
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limits, at_most, at_most_items
from gateway.protocol.sampling import SamplingRequest, TokenId

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


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


Tokens = Annotated[list[TokenId], Field(min_length=1)]
Prompt = Annotated[
    Annotated[str, Tag("~string")]
    | Annotated[list[str], Tag("~strings")]
    | Annotated[Tokens, Tag("~tokens")]
    | Annotated[list[Tokens], Tag("~token_lists")],
    Discriminator(
        _prompt_kind,
        custom_error_type="invalid_type",
        custom_error_message="expected a string, an array of strings, of token ids, or of arrays of token ids",
    ),
]


class CompletionRequest(SamplingRequest):
    """Body of ``POST /v1/completions``."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.COMPLETION

    prompt: Prompt = Field(description="Text or token ids to continue, or a list of either.")
    max_tokens: int | None = Field(
        None, ge=0, description="Most tokens to generate. 0 scores the prompt alone, with echo. Default 16."
    )
    logprobs: int | None = Field(
        None, ge=0, description="Report log-probabilities, and this many of the likeliest tokens at each position."
    )
    echo: bool | None = Field(None, description="Put the prompt before the answer; with logprobs, score it too.")
    best_of: int | None = Field(None, ge=1, description="Supported where it equals n.")
    add_special_tokens: bool | None = Field(
        None, description="Let the tokenizer add what it adds by itself, such as a first token. Default true."
    )

    @property
    def texts(self) -> list[str]:
        """The prompts, where they were given as text."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [prompt for prompt in given if isinstance(prompt, str)]

    @property
    def token_lists(self) -> list[list[int]]:
        """The prompts, where they were given as token ids."""
        if isinstance(self.prompt, str):
            return []
        lists = [prompt for prompt in self.prompt if isinstance(prompt, list)]
        return lists or ([ids] if (ids := [token for token in self.prompt if isinstance(token, int)]) else [])

    @property
    def scores_only(self) -> bool:
        """The prompt is echoed and nothing is generated after it."""
        return bool(self.echo) and self.max_tokens == 0

    def check(self, limits: Limits) -> None:
        super().check(limits)
        at_most_items(self.texts or self.token_lists, limits.max_prompts, "prompt", "prompts")
        at_most(self.logprobs, limits.max_logprobs, "logprobs")
        if self.best_of not in (None, self.num_choices):
            raise UnsupportedParameter(
                f"'best_of' is supported only where it equals n, which is {self.num_choices}.", param="best_of"
            )
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "Invalid 'max_tokens': 0 is allowed only with echo.", param="max_tokens", code="integer_below_min_value"
            )
