"""Prompts for text that is to stand between two others, in the forms that models were trained on.

The forms are those of StarCoder ("StarCoder: may the source be with you!", 2023), of Qwen2.5-Coder and CodeGemma, of
DeepSeek-Coder, of Codestral and of Code Llama ("Code Llama: Open Foundation Models for Code", 2023). Which one a model
knows shows in its special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import UnsupportedParameter
from gateway.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Form:
    """``head`` prefix ``between`` suffix ``tail``; with ``suffix_first`` the two texts change places.

    ``apart``: the suffix is tokenized as what goes on after other text, in models whose tokenizer begins texts with a
    space.
    """

    head: str
    between: str
    tail: str = ""
    suffix_first: bool = False
    apart: bool = False

    def known_to(self, tokenizer: Tokenizer) -> bool:
        return all(tokenizer.token_id(token) is not None for token in (self.head, self.between, self.tail) if token)

    def write(self, prefix: str, suffix: str) -> str:
        first, second = (suffix, prefix) if self.suffix_first else (prefix, suffix)
        return f"{self.head}{first}{self.between}{second}{self.tail}"


_FORMS = (
    _Form("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    _Form("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    _Form("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    _Form("[SUFFIX]", "[PREFIX]", suffix_first=True),
    _Form("▁<PRE>", "▁<SUF>", "▁<MID>", apart=True),
)


@dataclass(frozen=True, slots=True)
class FilledIn:
    texts: list[str]
    """To be tokenized."""
    apart: str | None = None
    """Text that follows each of them, to be tokenized as such, and"""
    last: int | None = None
    """the token after that."""


def filled_in(texts: list[str], suffix: str | None, tokenizer: Tokenizer) -> FilledIn:
    """The prompts after which a model writes what stands between each text and ``suffix``; unchanged without one.

    Raises ``UnsupportedParameter`` where the model has no tokens for that.
    """
    if not suffix:
        return FilledIn(texts)
    form = next((form for form in _FORMS if form.known_to(tokenizer)), None)
    if form is None:
        raise UnsupportedParameter(
            "'suffix' is not supported: this model has no tokens to fill in text between two others.", param="suffix"
        )
    if form.apart:
        return FilledIn([f"{form.head}{text}{form.between}" for text in texts], suffix, tokenizer.token_id(form.tail))
    return FilledIn([form.write(text, suffix) for text in texts])
