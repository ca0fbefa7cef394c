"""What the answers of both endpoints have in common: events in, bytes of a stream or of one body out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.completion.events import CallDelta, Completed, Delta, Event, OutputToken, PromptScored, Usage
from gateway.completion.sse import DONE
from gateway.completion.stream import joined_calls
from gateway.protocol.event_ids import EventIds, ResumeMode
from gateway.protocol.logprobs import prompt_entries
from gateway.tokenizer import Tokenizer

to_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every chunk and body of an answer repeats."""

    id: str
    created: int
    """Unix time, in seconds."""
    model: str
    system_fingerprint: str

    def members(self, object_name: str) -> dict[str, Any]:
        """As JSON members, in OpenAI's order."""
        return {
            "id": self.id,
            "object": object_name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "service_tier": "default",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What the request says of the form of its answer."""

    prompts: tuple[list[int], ...]
    """Token ids."""
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    """Of an echoed prompt: how many of the likeliest to show. None shows all that the engine has reported."""
    prompt_logprobs: int | None = None
    """How many of the likeliest to report in place of each prompt token, apart from any echo; None reports nothing."""
    keep: int | None = None
    """How many of each prompt's choices to give, the likeliest; None gives all."""
    token_ids: bool = False
    """Show the ids of prompt and output."""
    usage: bool = False
    """A stream ends with a usage chunk."""
    continuous_usage: bool = False
    reasoning: bool = True
    """Show it."""
    skip_special_tokens: bool = True
    continues_prompt: bool = False
    """As of the request."""
    echo: tuple[str, ...] | None = None
    """For each prompt what is to stand before the output: its own text, or in a chat that of the last message."""
    scores_only: bool = False
    """Nothing is generated after the echoed prompts: the one token that the engine needs is dropped."""


class Answer:
    """One request's answer. Fed with its events in order."""

    def __init__(self, envelope: Envelope, options: AnswerOptions, tokenizer: Tokenizer) -> None:
        self.envelope = envelope
        self.options = options
        self.tokenizer = tokenizer

    @property
    def num_choices(self) -> int:
        return len(self.options.prompts) * self.options.n

    def choices_of(self, prompt_index: int) -> range:
        return range(prompt_index * self.options.n, (prompt_index + 1) * self.options.n)

    def usage_of(self, usage: Usage) -> Usage:
        """What to report: a token that was generated only because the engine needs one does not count."""
        return Usage(usage.prompt_tokens, 0, usage.cached_tokens) if self.options.scores_only else usage


class StreamAnswer(Answer, ABC):
    """Bytes of server-sent events. One event after another, each ``data: JSON``: no ``id:``, no ``event:``.

    A stream that may be resumed has event ids as well. Every chunk then tells of one choice and brings it further, in
    one piece or in two, of which the second brings its finish reason.
    """

    object_name: str

    def __init__(
        self,
        envelope: Envelope,
        options: AnswerOptions,
        tokenizer: Tokenizer,
        *,
        mode: ResumeMode | None = None,
        seen: EventIds | None = None,
    ) -> None:
        """``mode``: where event ids stand, None for a stream without. ``seen``: what need not be sent again."""
        super().__init__(envelope, options, tokenizer)
        self._mode = mode
        self._ids = None if mode is None else seen or EventIds(self.num_choices)
        # Encoded once; a chunk is this, its choice, and its end.
        self._head = to_json(envelope.members(self.object_name))[:-1] + b',"choices":['
        self._prompt_tokens = sum(map(len, options.prompts))
        self._output_tokens = [0] * self.num_choices
        """Of each choice, as far as it was told of."""

    @abstractmethod
    def opening(self) -> bytes:
        """Sent before the first event: every choice begins, in index order."""

    @abstractmethod
    def delta(self, delta: Delta) -> bytes:
        """Chunks for news of one choice."""

    def scored(self, event: PromptScored) -> bytes:
        """Chunks for a prompt that was scored."""
        return b""

    def skip(self, delta: Delta) -> None:
        """In place of ``delta`` where the reader has seen all of it."""

    def feed(self, events: Iterable[Event]) -> bytes:
        """All that these events say, as one piece to send; after ``Completed``, the end of the stream with it."""
        parts = []
        for event in events:
            match event:
                case Delta():
                    self._output_tokens[event.index] = max(self._output_tokens[event.index], event.num_tokens)
                    if self._knows(event):
                        self.skip(event)
                    else:
                        parts.append(self.delta(event))
                case PromptScored():
                    parts.append(self.scored(event))
                case Completed():
                    parts.append(self._end(event.usage))
        return b"".join(parts)

    def _knows(self, delta: Delta) -> bool:
        ended = delta.finish_reason is not None
        return self._ids is not None and self._ids.knows(delta.index, delta.num_tokens, ended=ended)

    def _chunk(self, choice: bytes, index: int, num_tokens: int = 0, *, ended: bool = False) -> bytes:
        """One choice's JSON object as an event, after which its reader has seen so many of its output tokens.

        Empty where the reader has seen that already.
        """
        if self._ids is not None and not self._ids.advance(index, num_tokens, ended=ended):
            return b""
        return self._event(b"%b%b]%b" % (self._head, choice, self._usage_so_far()))

    def _event(self, members: bytes) -> bytes:
        """``members``: a JSON object without its closing brace."""
        if self._ids is None:
            return b"data: %b}\n\n" % members
        if self._mode == "sse":
            return b"id: %b\ndata: %b}\n\n" % (self._ids.id, members)
        return b'data: %b,"event_id":"%b"}\n\n' % (members, self._ids.id)

    def _usage_so_far(self) -> bytes:
        if self.options.continuous_usage:
            usage = self.usage_of(Usage(self._prompt_tokens, sum(self._output_tokens), 0))
            return b',"usage":' + to_json(usage_object(usage, details=False))
        return b',"usage":null' if self.options.usage else b""

    def _end(self, usage: Usage) -> bytes:
        if not self.options.usage or (self._ids is not None and not self._ids.finish()):
            return DONE
        return self._event(b'%b],"usage":%b' % (self._head, to_json(usage_object(self.usage_of(usage))))) + DONE


@dataclass(slots=True)
class Collected:
    """All of one choice."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    call_deltas: list[CallDelta] = field(default_factory=list)
    tokens: list[OutputToken] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    stop_tokens: list[OutputToken] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def calls(self) -> tuple[CallDelta, ...]:
        """Each whole."""
        return joined_calls(self.call_deltas)

    @property
    def generated(self) -> list[OutputToken]:
        """The tokens of the text, and those that ended it."""
        return [*self.tokens, *self.stop_tokens]

    @property
    def mean_logprob(self) -> float:
        """Of the generated tokens, where they are scored; what holds none is never preferred."""
        scores = [token.logprobs.logprob for token in self.generated if token.logprobs is not None]
        return sum(scores) / len(scores) if scores else -math.inf

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.generated]


class BodyAnswer(Answer, ABC):
    """One JSON object, made when all has been generated."""

    object_name: str

    def __init__(self, envelope: Envelope, options: AnswerOptions, tokenizer: Tokenizer) -> None:
        super().__init__(envelope, options, tokenizer)
        self._choices = [Collected() for _ in range(self.num_choices)]
        self._scored: dict[int, PromptScored] = {}
        self._usage = Usage(0, 0, 0)

    @property
    def num_scores(self) -> int:
        """For how many tokens the body reports log-probabilities; nearly all the time it takes goes there."""
        if not self.options.logprobs and self.options.prompt_logprobs is None:
            return 0
        prompts = sum(len(scored.logprobs) for scored in self._scored.values())
        return prompts + sum(len(choice.tokens) for choice in self._choices)

    @abstractmethod
    def choice(self, index: int, collected: Collected) -> dict[str, Any]:
        """One choice's JSON object."""

    def extra(self) -> dict[str, Any]:
        """Further members of the body."""
        return {}

    def feed(self, events: Iterable[Event]) -> None:
        """Takes the events in order."""
        for event in events:
            match event:
                case Delta():
                    choice = self._choices[event.index]
                    choice.texts.append(event.text)
                    choice.reasoning.append(event.reasoning)
                    choice.call_deltas.extend(event.calls)
                    choice.tokens.extend(event.tokens)
                    choice.finish_reason, choice.stop_reason = event.finish_reason, event.stop_reason
                    choice.stop_tokens = event.stop_tokens
                case PromptScored():
                    self._scored[event.prompt_index] = event
                case Completed():
                    self._usage = self.usage_of(event.usage)

    def body(self) -> bytes:
        """After ``Completed`` has been fed."""
        return to_json(
            self.envelope.members(self.object_name)
            | {
                "choices": [
                    self.choice(number, self._choices[number]) | {"index": index}
                    for index, number in enumerate(self._given())
                ],
                "usage": usage_object(self._usage),
            }
            | self.extra()
        )

    def _given(self) -> list[int]:
        """Numbers of the choices to give, in order."""
        keep = self.options.keep
        if keep is None:
            return list(range(self.num_choices))
        return [
            number
            for prompt_index in range(len(self.options.prompts))
            for number in sorted(
                self.choices_of(prompt_index), key=lambda number: self._choices[number].mean_logprob, reverse=True
            )[:keep]
        ]

    def prompt_entries(self, prompt_index: int) -> dict[str, Any]:
        """``prompt_logprobs``, where asked for."""
        top = self.options.prompt_logprobs
        if top is None:
            return {}
        scored = self._scored.get(prompt_index, PromptScored(prompt_index, [])).logprobs
        ids = self.options.prompts[prompt_index]
        return {"prompt_logprobs": prompt_entries(ids, scored, top, self.tokenizer)}


def usage_object(usage: Usage, *, details: bool = True) -> dict[str, Any]:
    """OpenAI's ``usage``; ``details`` adds how many tokens came from the prefix cache, and how many were reasoning."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if not details:
        return counts
    counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return counts
