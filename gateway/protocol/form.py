"""How the answer of a stream is to be written, in a form that can be kept: a resumed stream is written alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import msgspec

from gateway.protocol.answer import AnswerOptions, Envelope, StreamAnswer
from gateway.protocol.chat_answer import ChatStream
from gateway.protocol.completion_answer import CompletionStream
from gateway.protocol.event_ids import HEADER, EventIds, ResumeMode
from gateway.tokenizer import Tokenizer

_KINDS: dict[str, type[StreamAnswer]] = {kind.object_name: kind for kind in (ChatStream, CompletionStream)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """All members are of types that msgspec can write."""

    mode: ResumeMode
    kind: str
    """``object`` of its chunks."""
    envelope: Envelope
    options: AnswerOptions

    def headers(self, *, durable: bool) -> dict[str, str]:
        """Of the response, known before the first event: where to resume it, and whether this outlives the server."""
        return {
            "x-penstock-stream": self.envelope.id,
            HEADER.lower(): self.mode,
            "x-penstock-durable": "true" if durable else "false",
        }

    def encode(self) -> bytes:
        """Without the prompts, which the request has."""
        return _encoder.encode(replace(self, options=replace(self.options, prompts=())))

    @classmethod
    def decode(cls, form: bytes) -> Self:
        """Raises ``msgspec.DecodeError``."""
        return msgspec.msgpack.decode(form, type=cls)

    def answer(
        self, prompts: tuple[list[int], ...], tokenizer: Tokenizer, seen: EventIds | None = None
    ) -> StreamAnswer:
        """Writes what ``seen`` does not hold."""
        options = replace(self.options, prompts=prompts)
        return _KINDS[self.kind](self.envelope, options, tokenizer, mode=self.mode, seen=seen)


_encoder = msgspec.msgpack.Encoder()
