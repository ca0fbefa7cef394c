"""Chat template and tokenizer, off the event loop: requests' messages or text → token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.chat_template import ChatTemplate
from gateway.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from gateway.protocol.limits import Limits, at_most_length
from gateway.tokenizer import Tokenizer

Result = TypeVar("Result")

_SLACK = 4
"""How many characters a tokenizer's normalizer may make into one, with room to spare."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """What is generated from has to fit into the context."""

    context: int
    """The model's greatest length in tokens."""
    truncated: bool = False
    """Whether the ids will be cut to the last ones: then those of a text that is far too long are of its end alone."""


@dataclass(frozen=True, slots=True)
class Characters:
    """What is only tokenized may have so many characters."""

    limits: Limits
    limit: str = "max_tokenize_length"


Longest = Fitting | Characters
"""How long a text may be."""


class Prompts:
    """A few threads that render and tokenize. Short prompts go through them too: a loop that waits is a stutter."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, *, threads: int = 2) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="prompt")
        self._longest_token: int | None = None

    def close(self) -> None:
        """End the threads; work that has not begun is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def chat(
        self,
        messages: Callable[[], list[dict[str, Any]]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: Mapping[str, Any] | None,
        longest: Longest,
        tools: list[dict[str, Any]] | None = None,
    ) -> tuple[list[int], str]:
        """Messages → token ids, and the text that they are of. ``messages`` is called off the event loop too.

        Raises:
            InvalidRequest: the model has no chat template, or its template refuses the messages; or there may be so
                many characters and no more.
            ContextLengthExceeded: the text is so long that it need not be tokenized to know that it does not fit.
        """
        template = self._template(tools)

        def work() -> tuple[list[int], str]:
            text = template.render(
                messages(),
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables=variables,
                tools=tools,
            )
            # The template has written the special tokens.
            return self._encode(text, longest, "messages", add_special_tokens=False), text

        return await self.run(work)

    def _template(self, tools: list[dict[str, Any]] | None) -> ChatTemplate:
        if self.template is None:
            raise InvalidRequest(
                "This model has no chat template, so it cannot chat. Use /v1/completions, or start the server with "
                "--chat-template FILE.",
                code="no_chat_template",
            )
        if not tools:
            return self.template
        if not self.template.for_tools.reads_tools:
            raise UnsupportedParameter(
                "'tools' is not supported: the model's chat template does not show tools to the model. Start the "
                "server with --chat-template FILE, or serve a model that was trained for tools.",
                param="tools",
            )
        return self.template.for_tools

    async def texts(
        self, texts: list[str], *, params: Sequence[str], add_special_tokens: bool, longest: Longest
    ) -> list[list[int]]:
        """One list of token ids for each text; ``params`` name their fields. Raises as ``chat`` does."""
        if not texts:
            return []
        return await self.run(
            lambda: [
                self._encode(text, longest, param, add_special_tokens=add_special_tokens)
                for text, param in zip(texts, params, strict=True)
            ]
        )

    async def following(self, text: str, *, longest: Longest) -> list[int]:
        """Token ids of a text that goes on after another. Raises as ``chat`` does."""

        def work() -> list[int]:
            # Some tokenizers begin a text with a space. Here a line break begins it, which no token of theirs joins.
            first = self.tokenizer.encode("\n", add_special_tokens=False)
            whole = self._encode(f"\n{text}", longest, "prompt", add_special_tokens=False)
            if whole[: len(first)] == first:
                return whole[len(first) :]
            return self.tokenizer.encode(text, add_special_tokens=False)

        return await self.run(work)

    async def bad_words(self, words: list[str]) -> list[list[int]]:
        """Successions of tokens that spell the words, each alone and, where that begins otherwise, after a space.

        As vLLM does it: a word that is spelt in another way than by its usual tokens is not found.
        """
        if not words:
            return []
        return await self.run(lambda: [ids for word in words for ids in self._spellings(word)])

    def _spellings(self, word: str) -> list[list[int]]:
        bare, spaced = (
            self.tokenizer.encode(prefix + word.lstrip(" "), add_special_tokens=False) for prefix in ("", " ")
        )
        differs = spaced and bare and spaced[0] != bare[0] and len(spaced) == len(bare)
        return [ids for ids in (bare, spaced if differs else []) if ids]

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _encode(self, text: str, longest: Longest, what: str, *, add_special_tokens: bool) -> list[int]:
        # A tokenizer takes seconds for megabytes of text, and nobody else should wait for an answer that is known.
        if isinstance(longest, Characters):
            at_most_length(len(text), "characters", longest.limits, longest.limit, what)
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        context = longest.context
        if len(text) > _SLACK * context and len(text) > (most := _SLACK * context * self._longest()):
            if longest.truncated:
                return self.tokenizer.encode(text[-most:], add_special_tokens=add_special_tokens)
            at_least = len(text) // (_SLACK * self._longest())
            raise ContextLengthExceeded(
                f"This model's maximum context length is {context} tokens. However, your {what} resulted in at least "
                f"{at_least} tokens. Please reduce the length of the {what}.",
                param=what,
            )
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def _longest(self) -> int:
        """Most characters that one token stands for."""
        if self._longest_token is None:
            lengths = (len(self.tokenizer.token_bytes(token)) for token in range(self.tokenizer.vocab_size))
            self._longest_token = max(lengths, default=1) or 1
        return self._longest_token
