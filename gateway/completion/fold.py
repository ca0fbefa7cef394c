"""Tokens → events: a pure function of the token sequence, blind to how the tokens were batched.

Whatever has been fed, in however many pieces, the text and tokens released so far are the same. The end of a choice
is found in the tokens themselves (stop string, stop token, length); the engine's ``finish`` is evidence for what
only the engine knows, such as a context that is full.

Where the request has the text parsed, the parser comes last: stop strings are looked for in the text as the model
writes it, within reasoning and tool calls too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from engine.messages import EngineFinish, TokenLogprobs
from engine.sampling_params import SamplingParams
from gateway.completion.detokenizer import Detokenizer, StopMatch, StopSearch, StopStrings
from gateway.completion.events import Delta, FinishReason, OutputToken
from gateway.completion.parser import Parser
from gateway.completion.request import Request
from gateway.tokenizer import Tokenizer


class Fold:
    """One choice's tokens, folded into deltas.

    Two things end a choice beside its length. A stop token is no part of the text nor of the deltas' tokens. A stop
    string is cut from the text (unless it is to be included), and with it the tokens that lie within it or after it.
    The last delta carries by themselves the tokens that ended the choice in this way. They were generated all the
    same: ``num_tokens``, which usage counts, is the number of tokens and stop tokens together.
    """

    __slots__ = (
        "_detokenizer",
        "_end",
        "_eos_ids",
        "_include_stop",
        "_index",
        "_max_tokens",
        "_min_tokens",
        "_parser",
        "_parts",
        "_released",
        "_search",
        "_stop_ids",
        "_tokens",
        "finish_reason",
        "num_tokens",
        "reasoning_tokens",
        "stop_reason",
    )

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        stops: StopStrings,
        include_stop: bool,
        skip_special_tokens: bool,
        eos_ids: frozenset[int],
        continues: bool = False,
        parser: Parser | None = None,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """``eos_ids`` are the model's own stop tokens: ending at one of them is not reported as a reason.

        ``shown``: special tokens that the parser has to see.
        """
        self._index = index
        self._detokenizer = Detokenizer(
            tokenizer, skip_special_tokens=skip_special_tokens, continues=continues, shown=shown
        )
        self._parser = parser
        self._search = StopSearch(stops) if stops.strings else None
        self._include_stop = include_stop
        self._stop_ids = frozenset(params.stop_token_ids)
        self._eos_ids = eos_ids
        self._min_tokens = params.min_tokens
        self._max_tokens = params.max_tokens
        self._parts: deque[str] = deque()
        """Text that is held back: characters from ``_released`` to ``_end`` of the whole text."""
        self._released = 0
        self._end = 0
        self._tokens: deque[tuple[OutputToken, int, int]] = deque()
        """Tokens not yet released, each with the offsets at which the text of it begins and ends, or -1 for an end
        that is not known yet: it lies within a character."""
        self.num_tokens = 0
        self.reasoning_tokens = 0
        """Of the tokens released so far, those in which there is reasoning, or its markers."""
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None

    def feed(
        self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None = None, finish: EngineFinish | None = None
    ) -> Delta | None:
        """The news that these tokens bring, None where they bring none. Nothing may be fed after the end.

        ``finish`` holds for the last of ``ids``.
        """
        texts: list[str] = []
        tokens: list[OutputToken] = []
        stop_tokens: list[OutputToken] = []
        parser, read = self._parser, 0
        last = len(ids) - 1
        for number, token_id in enumerate(ids):
            self.num_tokens += 1
            token = OutputToken(token_id, logprobs[number] if logprobs else None)
            stopped = finish == "stop" and number == last
            if stopped or (token_id in self._stop_ids and self.num_tokens > self._min_tokens):
                self._finish("stop", None if token_id in self._eos_ids else token_id, texts, tokens)
                stop_tokens.append(token)
                break
            match = self._add(token, texts, tokens)
            if match is not None:
                self._cut(match, texts, tokens)
                break
            if parser is not None:
                read = self._parse(parser, texts, tokens, read)
                if parser.complete:
                    self.finish_reason = "tool_calls"
                    break
            if self.num_tokens == self._max_tokens:
                self._finish("length", None, texts, tokens)
                break
        else:
            if finish is not None:
                self._finish(finish, None, texts, tokens)
        if self.finish_reason is not None:
            # What is left here lies in a stop string, or after the one call that was allowed.
            stop_tokens = [*(token for token, _, _ in self._tokens), *stop_tokens]
            self._tokens.clear()
        if parser is not None:
            self._parse(parser, texts, tokens, read)
            return self._parsed(parser, tokens, stop_tokens)
        if not texts and not tokens and self.finish_reason is None:
            return None
        return Delta(
            index=self._index,
            text="".join(texts),
            tokens=tokens,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            stop_tokens=stop_tokens,
            num_tokens=self.num_tokens,
        )

    def _parse(self, parser: Parser, texts: list[str], tokens: list[OutputToken], read: int) -> int:
        """The parser takes the released text; ``read`` of the released tokens belong to what it has taken before."""
        before = parser.in_reasoning
        parser.feed("".join(texts))
        texts.clear()
        if before or parser.in_reasoning:
            self.reasoning_tokens += len(tokens) - read
        return len(tokens)

    def _parsed(self, parser: Parser, tokens: list[OutputToken], stop_tokens: list[OutputToken]) -> Delta | None:
        if self.finish_reason is not None:
            # Nobody can make a call that a stop string has cut.
            no_call = isinstance(self.stop_reason, str) and parser.in_call
            parser.finish(cut=self.finish_reason == "length" or self.stop_reason is not None)
            if self.finish_reason == "stop" and parser.has_calls and not no_call:
                self.finish_reason = "tool_calls"
        news = parser.take()
        if not (news.content or news.reasoning or news.calls or tokens) and self.finish_reason is None:
            return None
        return Delta(
            index=self._index,
            text=news.content,
            tokens=tokens,
            reasoning=news.reasoning,
            calls=news.calls,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            stop_tokens=stop_tokens,
            num_tokens=self.num_tokens,
        )

    def _add(self, token: OutputToken, texts: list[str], tokens: list[OutputToken]) -> StopMatch | None:
        """Takes one token and releases what nothing holds back any more."""
        detokenizer = self._detokenizer
        text = detokenizer.feed(token.id)
        begin = self._end
        incomplete = detokenizer.incomplete
        if self._search is None and not self._tokens and not incomplete:  # nearly every token
            self._released = self._end = begin + len(text)
            if text:
                texts.append(text)
            tokens.append(token)
            return None
        if text:
            self._close_open_tokens(begin + len(text))
        self._tokens.append((token, begin, -1 if incomplete else begin + len(text)))
        match = self._take_text(text)
        if match is None:
            self._release(self._end - (self._search.held if self._search else 0), texts, tokens)
        return match

    def _take_text(self, text: str) -> StopMatch | None:
        if not text:
            return None
        self._parts.append(text)
        self._end += len(text)
        return self._search.feed(text, armed=self.num_tokens > self._min_tokens) if self._search else None

    def _close_open_tokens(self, end: int) -> None:
        """The characters that the newest tokens began are complete now."""
        opened = []
        while self._tokens and self._tokens[-1][2] < 0:
            opened.append(self._tokens.pop())
        self._tokens.extend((token, begin, end) for token, begin, _ in reversed(opened))

    def _release(self, until: int, texts: list[str], tokens: list[OutputToken]) -> None:
        """Releases the text up to an offset, and the tokens whose text is all released with it."""
        parts = self._parts
        while self._released < until:
            part = parts.popleft()
            room = until - self._released
            if len(part) > room:
                parts.appendleft(part[room:])
                part = part[:room]
            self._released += len(part)
            texts.append(part)
        while self._tokens and 0 <= self._tokens[0][2] <= until:
            tokens.append(self._tokens.popleft()[0])

    def _finish(self, reason: FinishReason, stop: int | None, texts: list[str], tokens: list[OutputToken]) -> None:
        """The output ends here: what was held back is text after all, unless its remainder completes a stop string."""
        rest = self._detokenizer.flush()
        self._close_open_tokens(self._end + len(rest))
        match = self._take_text(rest)
        if match is not None:
            self._cut(match, texts, tokens)
            return
        self._release(self._end, texts, tokens)
        self.finish_reason, self.stop_reason = reason, stop

    def _cut(self, match: StopMatch, texts: list[str], tokens: list[OutputToken]) -> None:
        """Ends the text at a stop string; a token that straddles the cut still belongs to the text."""
        until = match.end if self._include_stop else match.start
        self._release(until, texts, tokens)
        while self._tokens and self._tokens[0][1] < until:
            tokens.append(self._tokens.popleft()[0])
        self.finish_reason, self.stop_reason = "stop", match.string


def folds_of(request: Request, tokenizer: Tokenizer, eos_ids: Collection[int]) -> list[Fold]:
    """One for each choice of a request, with nothing fed yet. ``eos_ids`` are the model's own stop tokens."""
    stops = StopStrings(request.stop)
    shown = tokenizer.special_ids_of(request.parsing.markers) if request.parsing is not None else frozenset[int]()
    return [
        Fold(
            index,
            tokenizer,
            request.params[index // request.n],
            stops=stops,
            include_stop=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            eos_ids=frozenset(eos_ids),
            continues=request.continues_prompt,
            parser=request.parser(index),
            shown=shown,
        )
        for index in range(request.num_choices)
    ]
