"""Prompts of exact lengths in tokens that share what they are meant to share, and nothing by accident."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

SMALLEST_ID, LARGEST_ID = 100, 1000
"""Token ids of prompts where no tokenizer is at hand: in every vocabulary, above most special tokens."""


@dataclass(frozen=True)
class Prompt:
    """The same prompt as token ids and as text; the text is None where no tokenizer was at hand."""

    ids: tuple[int, ...]
    text: str | None


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths in tokens, as written on a command line.

    ``128`` always; ``64-192`` uniform, ends included; ``64,1024`` one of these, equally often;
    ``lognormal:128:0.6`` by median and sigma of the logarithm, cut at eight times the median.
    """

    text: str
    draw: Callable[[random.Random], int]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Raises ValueError for what is none of the four forms, or allows a length below 1."""
        if match := re.fullmatch(r"lognormal:(\d+):(\d*\.?\d+)", text):
            median, sigma = int(match[1]), float(match[2])
            lowest = median

            def draw(rng: random.Random) -> int:
                return max(1, min(8 * median, round(rng.lognormvariate(math.log(median), sigma))))

        elif match := re.fullmatch(r"(\d+)-(\d+)", text):
            lowest, highest = int(match[1]), int(match[2])

            def draw(rng: random.Random) -> int:
                return rng.randint(lowest, highest)

            if highest < lowest:
                raise ValueError(f"{text}: the second length is below the first")
        elif re.fullmatch(r"\d+(,\d+)*", text):
            choices = [int(part) for part in text.split(",")]
            lowest = min(choices)

            def draw(rng: random.Random) -> int:
                return rng.choice(choices)

        else:
            raise ValueError(f"{text}: a length is 128, 64-192, 64,1024 or lognormal:128:0.6")
        if lowest < 1:
            raise ValueError(f"{text}: a length is at least 1")
        return cls(text, draw)


class PromptMaker:
    """Draws prompts from whole-word tokens, which keep their ids when the text is encoded again.

    Every prompt, and every shared prefix, begins with a token of its own: no two begin alike, in one run, until the
    words are used up. Servers that keep prefixes from run to run need another ``seed`` each time.
    """

    def __init__(self, tokenizer: Tokenizer | None, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)
        self._words = _words(tokenizer) if tokenizer else list(range(SMALLEST_ID, LARGEST_ID))
        self._beginnings = itertools.cycle(self._rng.sample(self._words, len(self._words)))

    def make(self, count: int, lengths: Lengths, shared: int = 0, prefixes: int = 1) -> list[Prompt]:
        """``count`` prompts. Each is one of ``prefixes`` beginnings of ``shared`` tokens in turn, then a part of its
        own whose length is drawn from ``lengths``."""
        beginnings = [self._draw(shared) for _ in range(prefixes)]
        return [
            self._prompt(beginnings[number % prefixes] + self._draw(lengths.draw(self._rng))) for number in range(count)
        ]

    def lengths(self, count: int, lengths: Lengths) -> list[int]:
        """``count`` draws from a distribution, with this maker's seed."""
        return [lengths.draw(self._rng) for _ in range(count)]

    def _draw(self, length: int) -> list[int]:
        return [next(self._beginnings), *self._rng.choices(self._words, k=length - 1)] if length else []

    def _prompt(self, ids: list[int]) -> Prompt:
        if self._tokenizer is None:
            return Prompt(tuple(ids), None)
        text = self._tokenizer.decode(ids)
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        if found != ids:
            raise ValueError(f"a prompt of {len(ids)} tokens is {len(found)} tokens when its text is encoded again")
        return Prompt(tuple(ids), text)


def _words(tokenizer: Tokenizer) -> list[int]:
    """Ids of tokens that are a space and lower-case letters, and that this text encodes to.

    The first is written Ġ by byte-level tokenizers and ▁ by SentencePiece. Raises ValueError where there are too few.
    """
    found = sorted(
        (index, piece) for piece, index in tokenizer.get_vocab().items() if re.fullmatch("[Ġ▁][a-z]{2,}", piece)
    )
    texts = [" " + piece[1:] for _, piece in found]
    encoded: Sequence[Sequence[int]] = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    words = [index for (index, _), ids in zip(found, encoded, strict=True) if list(ids) == [index]]
    if len(words) < 100:
        raise ValueError(f"the tokenizer has {len(words)} whole-word tokens; at least 100 are needed")
    return words
