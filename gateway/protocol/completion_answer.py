"""Answers of ``/v1/completions``."""

from __future__ import annotations

from typing import Any

from gateway.completion.events import Delta, PromptScored
from gateway.protocol.answer import AnswerOptions, BodyAnswer, Collected, Envelope, StreamAnswer, to_json
from gateway.protocol.event_ids import EventIds, ResumeMode
from gateway.protocol.logprobs import CompletionLogprobs, joined
from gateway.tokenizer import Tokenizer


class CompletionStream(StreamAnswer):
    """``text_completion`` objects, each with a piece of one choice's text."""

    object_name = "text_completion"

    def __init__(
        self,
        envelope: Envelope,
        options: AnswerOptions,
        tokenizer: Tokenizer,
        *,
        mode: ResumeMode | None = None,
        seen: EventIds | None = None,
    ) -> None:
        super().__init__(envelope, options, tokenizer, mode=mode, seen=seen)
        self._logprobs = [_builder(self.options, tokenizer) for _ in range(self.num_choices)]

    def opening(self) -> bytes:
        """Echoed prompts; those that are scored come when they have been."""
        if self.options.echo is not None and not self.options.logprobs:
            texts = [text for text in self.options.echo for _ in range(self.options.n)]
        elif self.options.token_ids:
            texts = [""] * self.num_choices
        else:
            return b""
        return b"".join(
            self._chunk(to_json(_choice(index, text) | self._prompt_ids(index)), index)
            for index, text in enumerate(texts)
        )

    def scored(self, event: PromptScored) -> bytes:
        if self.options.echo is None:
            return b""
        text, ids = self.options.echo[event.prompt_index], self.options.prompts[event.prompt_index]
        choices = self.choices_of(event.prompt_index)
        for index in choices:
            self._logprobs[index].follow(text)
        # The same for all of them, and long.
        logprobs = to_json(_builder(self.options, self.tokenizer).prompt(ids, event.logprobs, text))
        return b"".join(
            self._chunk(
                b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":null}' % (index, to_json(text), logprobs), index
            )
            for index in choices
        )

    def skip(self, delta: Delta) -> None:
        if self.options.logprobs:
            self._logprobs[delta.index].skip(delta.generated)

    def delta(self, delta: Delta) -> bytes:
        finish = to_json(delta.finish_reason)
        if self.options.scores_only:
            if delta.finish_reason is None:
                return b""
            choice = to_json(_choice(delta.index, "", finish_reason="length"))
            return self._chunk(choice, delta.index, delta.num_tokens, ended=True)
        tokens = delta.generated
        reported = bool(tokens) and (self.options.logprobs or self.options.token_ids)
        if not (delta.text or reported or delta.finish_reason):
            return b""
        logprobs = b"null"
        if self.options.logprobs and tokens:
            logprobs = to_json(self._logprobs[delta.index].output(tokens))
        more = b""
        if self.options.token_ids:
            more = b',"token_ids":' + to_json([token.id for token in tokens])
        if delta.finish_reason is not None:
            more += b',"stop_reason":' + to_json(delta.stop_reason)
        return self._chunk(
            b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":%s%s}'
            % (delta.index, to_json(delta.text), logprobs, finish, more),
            delta.index,
            delta.num_tokens,
            ended=delta.finish_reason is not None,
        )

    def _prompt_ids(self, index: int) -> dict[str, Any]:
        if not self.options.token_ids:
            return {}
        return {"prompt_token_ids": self.options.prompts[index // self.options.n], "token_ids": []}


class CompletionBody(BodyAnswer):
    """A ``text_completion`` object."""

    object_name = "text_completion"

    def choice(self, index: int, collected: Collected) -> dict[str, Any]:
        options, prompt_index = self.options, index // self.options.n
        echo = options.echo[prompt_index] if options.echo is not None else ""
        if options.scores_only:
            collected = Collected(finish_reason="length")
        choice = _choice(
            index,
            echo + collected.text,
            logprobs=self._logprobs(prompt_index, echo, collected) if options.logprobs else None,
            finish_reason=collected.finish_reason,
        )
        choice["stop_reason"] = collected.stop_reason
        if options.token_ids:
            choice |= {"token_ids": collected.ids, "prompt_token_ids": options.prompts[prompt_index]}
        return choice | self.prompt_entries(prompt_index)

    def _logprobs(self, prompt_index: int, echo: str, collected: Collected) -> dict[str, Any]:
        builder = _builder(self.options, self.tokenizer)
        parts = []
        if self.options.echo is not None:
            scored = self._scored.get(prompt_index, PromptScored(prompt_index, []))
            parts.append(
                builder.prompt(self.options.prompts[prompt_index], scored.logprobs, echo, top=self.options.top_logprobs)
            )
        return joined([*parts, builder.output(collected.generated)])


def _builder(options: AnswerOptions, tokenizer: Tokenizer) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokenizer, skip_special_tokens=options.skip_special_tokens, continues=options.continues_prompt
    )


def _choice(
    index: int, text: str, *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
