"""Prompts for text that is to stand between two others, in the forms that models were trained on.

The forms are those of StarCoder ("StarCoder: may the source be with you!", 2023), of Qwen2.5-Coder and CodeGemma, of
DeepSeek-Coder and of Codestral. Which one a model knows shows in its special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import UnsupportedParameter
from gateway.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Form:
    """``head`` prefix ``between`` suffix ``tail``; with ``suffix_first`` the two texts change places."""

    head: str
    between: str
    tail: str = ""
    suffix_first: bool = False

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
)


def filled_in(texts: list[str], suffix: str | None, tokenizer: Tokenizer) -> list[str]:
    """The prompts after which a model writes what stands between each text and ``suffix``; unchanged without one.

    Raises ``UnsupportedParameter`` where the model has no tokens for that.
    """
    if not suffix:
        return texts
    form = next((form for form in _FORMS if form.known_to(tokenizer)), None)
    if form is None:
        raise UnsupportedParameter(
            "'suffix' is not supported: this model has no tokens to fill in text between two others.", param="suffix"
        )
    return [form.write(text, suffix) for text in texts]
