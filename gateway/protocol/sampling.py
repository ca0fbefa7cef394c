"""The request fields that chat and plain completions share, and how they become the engine's SamplingParams."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag

from engine.messages import EngineInfo
from engine.sampling_params import ReasoningLimit, SamplingParams
from gateway.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from gateway.protocol import fields
from gateway.protocol.base import Longest, RequestModel, kind_of
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limited, Limits, at_most, at_most_items, at_most_long, shorten

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy decoding: dividing logits by them would overflow."""
SMALLEST_TOP_P = 1e-9
"""What ``top_p: 0`` means, as OpenAI accepts it: the likeliest token alone."""

StopString = Annotated[str, Field(min_length=1), Limited("maxLength", "max_stop_length")]
Stop = Annotated[
    Annotated[StopString, Tag("~string")] | Annotated[list[StopString], Limited("maxItems", "max_stop"), Tag("~list")],
    Discriminator(
        kind_of({str: "~string", list: "~list"}),
        custom_error_type="invalid_type",
        custom_error_message="expected a string or an array of strings",
    ),
]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[str, Bias],
    Field(json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,10}$"}}),
    Limited("maxProperties", "max_logit_bias"),
]
"""``sampling_params`` says what is wrong with a key."""
Label = Annotated[str, Longest("max_label_length")]


class StreamOptions(RequestModel):
    """What a stream carries beside the text."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.STREAM_OPTIONS
    prefix: ClassVar[str] = "stream_options."

    include_usage: bool | None = Field(
        None, description="Send a last chunk with the request's token counts and no choices."
    )
    continuous_usage_stats: bool | None = Field(
        None, description="With include_usage: put the token counts so far into every chunk."
    )


class SamplingRequest(RequestModel):
    """Fields of both endpoints."""

    model: str | None = Field(
        None, description="Name of the model, as /v1/models lists it. Left out, it is the model that is served."
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="Divides the logits before sampling. 0 takes the likeliest token. Default 1."
    )
    top_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Sample among the likeliest tokens that together have this probability. Default 1.",
    )
    top_k: int | None = Field(
        None,
        ge=-1,
        lt=2**31,
        description="Sample among this many of the likeliest tokens. 0 or -1 is off, the default.",
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Leave out tokens less likely than this share of the likeliest. Default 0."
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**64,
        description="The same request with the same seed gives the same answer. Drawn at random where left out.",
    )
    n: Annotated[int, Limited("maximum", "max_n")] | None = Field(
        None, ge=1, description="How many answers to each prompt. Default 1."
    )
    stop: Stop | None = Field(None, description="Text, or several, before which generation ends.")
    stop_token_ids: Annotated[list[TokenId], Limited("maxItems", "max_stop")] | None = Field(
        None, description="Token ids after which generation ends."
    )
    min_tokens: int | None = Field(
        None, ge=0, description="Do not end at a stop token or stop string before this many tokens. Default 0."
    )
    ignore_eos: bool | None = Field(None, description="Go on after the model's own end-of-sequence tokens.")
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Taken from the logit of every token that has been generated. Default 0."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="The same, times how often it has been generated. Default 0."
    )
    repetition_penalty: float | None = Field(
        None,
        ge=0.01,
        le=10,
        description="Divides positive logits, and multiplies negative ones, of tokens in prompt or answer. Default 1.",
    )
    logit_bias: Biases | None = Field(
        None, description="Token id, as a string, to a number between -100 and 100 that is added to its logit."
    )
    include_stop_str_in_output: bool | None = Field(None, description="Keep the stop string in the text.")
    skip_special_tokens: bool | None = Field(None, description="Leave special tokens out of the text. Default true.")
    prompt_logprobs: Annotated[int, Limited("maximum", "max_logprobs")] | None = Field(
        None,
        ge=0,
        description="Report the log-probability of every prompt token but the first, and of this many of the likeliest "
        "in its place. Not for streams.",
    )
    truncate_prompt_tokens: int | None = Field(
        None,
        ge=-1,
        description="Keep only so many tokens of the prompt, the last ones. -1: as many as leave room for the answer, "
        "by its greatest length.",
        json_schema_extra={"not": {"const": 0}},
    )
    return_token_ids: bool | None = Field(
        None, description="Add token_ids to every choice, and prompt_token_ids to what belongs to the prompt."
    )
    cache_salt: Label | None = Field(
        None, description="Share cached prompt prefixes only with requests of the same key and salt."
    )
    session_id: Label | None = Field(
        None, description="Your name for a conversation: its requests go to one replica where they can."
    )
    prompt_cache_key: str | None = Field(
        None, description="OpenAI's name for the same; it counts where there is no session_id."
    )
    user: Label | None = Field(
        None,
        description="Your name for the end user; it is written to the access log. Where there is neither session_id "
        "nor prompt_cache_key, requests of one user go to one replica.",
    )
    safety_identifier: Label | None = Field(
        None, description="Your name for the end user; it is written to the access log."
    )
    metadata: Annotated[dict[str, Label], Limited("maxProperties", "max_metadata")] | None = Field(
        None, description="Your names for the request, pairs of text; written to the access log."
    )
    stream: bool | None = Field(None, description="Send the answer as server-sent events while it is generated.")
    stream_options: StreamOptions | None = Field(None, description="Only where stream is true.")

    # --- what the members come to, defaults resolved ---

    @property
    def num_choices(self) -> int:
        """Of each prompt."""
        return 1 if self.n is None else self.n

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def label(self) -> str | None:
        """Of the end user, for the access log."""
        return self.safety_identifier or self.user

    @property
    def session(self) -> str | None:
        """What its requests are kept together by."""
        for name in ("session_id", "prompt_cache_key", "user"):
            if value := getattr(self, name):
                return f"{name}={value}"
        return None

    @property
    def stream_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def truncated(self, prompt: list[int], room: int) -> list[int]:
        """What is kept of a prompt's tokens; ``room`` is what the answer leaves of the context."""
        if self.truncate_prompt_tokens is None:
            return prompt
        most = room if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        return prompt[-most:] if most > 0 else prompt  # which does not fit, and that is what is to be said

    def resolved_seed(self) -> int:
        """Unsigned 64 bits: the client's, a negative one folded, or one drawn now."""
        return secrets.randbits(64) if self.seed is None else self.seed % 2**64

    @classmethod
    def check_sizes(cls, data: Mapping[str, Any], limits: Limits) -> None:
        at_most_items(data.get("stop"), limits, "max_stop", "stop", "strings")
        at_most_items(data.get("stop_token_ids"), limits, "max_stop", "stop_token_ids", "ids")
        at_most_items(data.get("metadata"), limits, "max_metadata", "metadata", "pairs")
        at_most_items(data.get("logit_bias"), limits, "max_logit_bias", "logit_bias", "entries")

    def check(self, limits: Limits) -> None:
        """What the schema alone cannot say. Raises ``InvalidRequest``."""
        at_most(self.n, limits, "max_n", "n")
        for name in self.metadata or {}:
            at_most_long(name, limits, "max_metadata_name_length", "metadata")
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest(
                "Invalid 'truncate_prompt_tokens': must be at least 1, or -1 for all that leaves room for the answer, "
                "but got 0.",
                param="truncate_prompt_tokens",
                code="integer_below_min_value",
            )
        at_most(self.prompt_logprobs, limits, "max_logprobs", "prompt_logprobs")
        if self.stream and self.prompt_logprobs is not None:
            raise UnsupportedParameter(
                "'prompt_logprobs' is not supported where 'stream' is true.", param="prompt_logprobs"
            )
        for text in self.stop_strings:
            at_most_long(text, limits, "max_stop_length", "stop")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "'stream_options' is only allowed where 'stream' is true.", param="stream_options", code="invalid_value"
            )
        if self.stream_options and self.stream_options.continuous_usage_stats and not self.stream_usage:
            raise InvalidRequest(
                "'stream_options.continuous_usage_stats' is only allowed where 'stream_options.include_usage' is true.",
                param="stream_options.continuous_usage_stats",
                code="invalid_value",
            )

    def sampling_params(
        self,
        info: EngineInfo,
        *,
        max_tokens: int,
        logprobs: int | None,
        prompt_logprobs: Annotated[int, Limited("maximum", "max_logprobs")] | None = None,
        allowed_token_ids: Sequence[int] = (),
        bad_words: Sequence[Sequence[int]] = (),
        reasoning_limit: ReasoningLimit | None = None,
    ) -> SamplingParams:
        """For one prompt. Raises ``InvalidRequest`` where a token id lies outside the vocabulary."""
        named = self.stop_token_ids or []
        for param, tokens in (("stop_token_ids", named), ("allowed_token_ids", allowed_token_ids)):
            for index, token in enumerate(tokens):
                _in_vocabulary(token, info.vocab_size, f"{param}[{index}]")
        own = [] if self.ignore_eos else info.eos_token_ids
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else max(self.top_p, SMALLEST_TOP_P)
        top_k = max(self.top_k or 0, 0)
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=0.0 if temperature < GREEDY_BELOW else temperature,
            top_k=0 if top_k >= info.vocab_size else top_k,
            top_p=top_p,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=self._biases(info.vocab_size),
            allowed_token_ids=tuple(allowed_token_ids),
            bad_words=tuple(map(tuple, bad_words)),
            reasoning_limit=reasoning_limit,
            stop_token_ids=tuple(dict.fromkeys([*own, *named])),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    def _biases(self, vocab_size: int) -> dict[int, float]:
        biases: dict[int, float] = {}
        for key, value in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdecimal() and len(key) <= 10):
                raise InvalidRequest(
                    f"Invalid 'logit_bias': its keys are token ids in decimal digits, but one is {shorten(key)}.",
                    param="logit_bias",
                    code="invalid_value",
                )
            biases[_in_vocabulary(int(key), vocab_size, "logit_bias")] = value
        return biases


def _in_vocabulary(token: int, vocab_size: int, param: str) -> int:
    if not 0 <= token < vocab_size:
        raise InvalidRequest(
            f"Invalid '{param}': token ids lie between 0 and {vocab_size - 1}, but one is {token}.",
            param=param,
            code="invalid_value",
        )
    return token


def resolve_max_tokens(
    *, prompt_tokens: int, asked: int | None, default: int | None, min_tokens: int, context: int, what: str, param: str
) -> int:
    """How many tokens may be generated after a prompt.

    Args:
        asked: what the request says, 1 or more.
        default: where it says nothing; cut to what the context leaves. None takes all that it leaves.
        context: greatest number of tokens of prompt and output together.
        what: the prompt, in words for the message (``messages`` or ``prompt``).
        param: the field that holds ``asked``.

    Raises:
        ContextLengthExceeded: prompt and output do not fit.
        InvalidRequest: ``min_tokens`` is more than may be generated.
    """
    room = context - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens. However, your {what} resulted in "
            f"{prompt_tokens} tokens, and at least one more is generated. Please reduce the length of the {what}.",
            param=what,
        )
    if asked is not None and asked > room:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{shorten(prompt_tokens + asked)} tokens ({prompt_tokens} in the {what}, {shorten(asked)} in the "
            f"completion). Please reduce the length of the {what} or completion.",
            param=param,
        )
    granted = asked if asked is not None else min(room, default or room)
    if min_tokens > granted:
        raise InvalidRequest(
            f"Invalid 'min_tokens': {shorten(min_tokens)} is more than the {granted} tokens that may be generated.",
            param="min_tokens",
            code="integer_above_max_value",
        )
    return granted


def check_token_ids(ids: list[int], vocab_size: int, param: str) -> None:
    """Raises ``InvalidRequest`` where an id of a prompt lies outside the vocabulary."""
    if ids and max(ids) >= vocab_size:
        _in_vocabulary(max(ids), vocab_size, param)
