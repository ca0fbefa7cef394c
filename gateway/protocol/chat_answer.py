"""Answers of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from gateway.completion.events import CallDelta, Delta, OutputToken
from gateway.protocol.answer import AnswerOptions, BodyAnswer, Collected, StreamAnswer, to_json
from gateway.protocol.logprobs import chat_entries


class ChatStream(StreamAnswer):
    """``chat.completion.chunk`` objects: a role, text in pieces, and a finish reason, for each choice."""

    object_name = "chat.completion.chunk"

    def opening(self) -> bytes:
        extra = {"prompt_token_ids": self.options.prompts[0]} if self.options.token_ids else {}
        role = {"role": "assistant", "content": _echoed(self.options), "refusal": None}
        return b"".join(
            self._chunk(
                to_json({"index": index, "delta": role, "logprobs": None, "finish_reason": None} | extra), index
            )
            for index in range(self.num_choices)
        )

    def delta(self, delta: Delta) -> bytes:
        chunks = b""
        reported = delta.tokens if self.options.logprobs or self.options.token_ids else None
        reasoning = delta.reasoning if self.options.reasoning else ""
        if delta.text or reasoning or delta.calls or reported:
            news = _news(delta, reasoning)
            more = self._details(reported) if reported else b',"logprobs":null'
            chunks = self._chunk(
                b'{"index":%d,"delta":%s%s,"finish_reason":null}' % (delta.index, news, more),
                delta.index,
                delta.num_tokens,
            )
        if delta.finish_reason is not None:
            ended = delta.stop_tokens if reported is not None else []
            more = self._details(ended) if ended else b',"logprobs":null'
            chunks += self._chunk(
                b'{"index":%d,"delta":{}%s,"finish_reason":%s,"stop_reason":%s}'
                % (delta.index, more, to_json(delta.finish_reason), to_json(delta.stop_reason)),
                delta.index,
                delta.num_tokens,
                ended=True,
            )
        return chunks

    def _details(self, tokens: list[OutputToken]) -> bytes:
        logprobs = to_json(chat_entries(tokens, self.tokenizer)) if self.options.logprobs else b"null"
        ids = b',"token_ids":' + to_json([token.id for token in tokens]) if self.options.token_ids else b""
        return b',"logprobs":%s%s' % (logprobs, ids)


def _news(delta: Delta, reasoning: str) -> bytes:
    if not (reasoning or delta.calls):
        return b'{"content":%s}' % to_json(delta.text)
    members: dict[str, Any] = {}
    if reasoning:
        members["reasoning_content"] = reasoning
    if delta.text:
        members["content"] = delta.text
    if delta.calls:
        members["tool_calls"] = [_call_news(call) for call in delta.calls]
    return to_json(members)


def _call_news(call: CallDelta) -> dict[str, Any]:
    """Id, type and name once: clients join what comes again."""
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


class ChatBody(BodyAnswer):
    """A ``chat.completion`` object."""

    object_name = "chat.completion"

    def choice(self, index: int, collected: Collected) -> dict[str, Any]:
        ids = {"token_ids": collected.ids} if self.options.token_ids else {}
        return {
            "index": index,
            "message": _message(collected, _echoed(self.options), reasoning=self.options.reasoning),
            "logprobs": chat_entries(collected.generated, self.tokenizer) if self.options.logprobs else None,
            "finish_reason": collected.finish_reason,
            "stop_reason": collected.stop_reason,
        } | ids

    def extra(self) -> dict[str, Any]:
        ids = {"prompt_token_ids": self.options.prompts[0]} if self.options.token_ids else {}
        return ids | self.prompt_entries(0)


def _echoed(options: AnswerOptions) -> str:
    return options.echo[0] if options.echo else ""


def _message(collected: Collected, echo: str, *, reasoning: bool) -> dict[str, Any]:
    """Content is null where there are reasoning or calls alone."""
    calls, reasoned = collected.calls, "".join(collected.reasoning)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": echo + collected.text or (None if calls or reasoned else ""),
        "refusal": None,
        "annotations": [],
    }
    if reasoned and reasoning:
        message["reasoning_content"] = reasoned
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message
