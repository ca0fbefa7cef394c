"""What a completion yields, before any wire format: routes turn these into chat or completion bodies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from engine.messages import TokenLogprobs

FinishReason = Literal["stop", "length", "tool_calls", "abort"]


@dataclass(frozen=True, slots=True)
class OutputToken:
    """One output token together with its log-probabilities, where they were asked for."""

    id: int
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """News of one tool call: ``id`` and ``name`` once, with the first; ``arguments`` are pieces to be joined."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """News of one choice. Joined over its deltas, ``text`` is the choice's text and ``tokens`` its tokens.

    Tokens travel with the text they have completed: a token whose text is held back (half a character, a
    possible stop string) comes with a later delta, so that text and log-probabilities stay aligned. Where the text is
    parsed, ``text`` is what neither reasoning nor a call is; tokens of what may yet be markup travel ahead of it.
    """

    index: int
    text: str
    tokens: list[OutputToken]
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    """Set on the last delta of the choice, and only there."""
    stop_reason: str | int | None = None
    """With ``stop``: the stop string, or the stop token id that the request named; None for the model's own."""
    stop_tokens: list[OutputToken] = field(default_factory=list)
    """With the last delta: those that ended the choice, a stop token or what lies in a stop string that was cut off.
    They have no text, so they are none of ``tokens``; they were generated all the same, and count in usage."""
    num_tokens: int = 0
    """Output tokens of the choice so far, those included whose text is still held back."""

    @property
    def generated(self) -> list[OutputToken]:
        """The tokens of the text, and those that ended it."""
        return [*self.tokens, *self.stop_tokens] if self.stop_tokens else self.tokens


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Log-probabilities of a prompt's tokens but the first, where they were asked for: once, before its first delta."""

    prompt_index: int
    logprobs: list[TokenLogprobs]


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    """Of the completion tokens, those of the reasoning and its markers."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Completed:
    """The last event of a request: all its choices are done."""

    usage: Usage


Event: TypeAlias = Delta | PromptScored | Completed
