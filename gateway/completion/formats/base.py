"""What a format is. A module of this package that has ``TOOLS`` or ``REASONING`` is one, under the module's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from gateway.completion.formats.reader import Reader, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentSyntax:
    """How arguments are spelt that are written one by one: ``before``, the name, ``middle``, the value, ``after``."""

    before: str = ""
    middle: str
    after: str = ""
    between: str = ""
    """From one to the next."""
    name: str
    """Regular expression of the names that can be spelt."""
    plain_text: bool = False
    """Whether values of type string are written as they are, up to ``after``; all others are JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    """How calls are spelt, for a grammar that enforces them.

    ``begin``, then for each call ``before``, its name, ``middle``, its arguments and ``after``, with ``between`` from
    one to the next, and at last ``end``.
    """

    trigger: str = ""
    """What calls begin with, and other text does not: one special token or none. Empty where there is no marker."""
    others: tuple[str, ...] = ()
    """What the parser takes for the beginning of a call beside the trigger; no other text may hold it."""
    begin: str = ""
    before: str
    middle: str
    after: str
    between: str = ""
    end: str = ""
    arguments: ArgumentSyntax | None = None
    """None where they are a JSON object."""
    never: str = ""
    """Two characters that strings in JSON may not hold here side by side, since markers begin with them that the parser
    would find there."""
    single: bool = False
    """Whether an answer ends with its first call."""
    opening: str = ""
    """Without a trigger: the character that an answer begins with which is calls, and no other answer."""
    text: str = ""
    """What stands before an answer that is no call."""
    preface: tuple[str, str] | None = None
    """Without a trigger: what stands before and after text that comes before calls, if it may."""


class ToolFormat(ABC):
    """How a family of models writes tool calls."""

    models: ClassVar[str]
    """Which models write so, for people to read."""
    markers: ClassVar[tuple[str, ...]] = ()
    """Special tokens of the tokenizer that the parser has to see, where they are."""
    first: ClassVar[str]
    """Characters that an answer begins with where it begins with a call. Empty where headers tell calls from text."""

    @abstractmethod
    def detect(self, template: str) -> bool:
        """Whether a chat template teaches this format; one of them at most does."""

    @abstractmethod
    def syntax(self, template: str) -> CallSyntax:
        """For a grammar, as the template has it."""

    @abstractmethod
    def parse(self, reader: Reader) -> Steps[None]:
        """Read to the end of the text. What is no call, or a malformed one, is content as it was written."""

    def call_id(self, digest: str) -> str:
        """The id of a call, made of 32 hexadecimal digits that are its own."""
        return f"call_{digest[:24]}"


class ReasoningFormat(ABC):
    """How a family of models sets its reasoning apart from the answer."""

    models: ClassVar[str]
    markers: ClassVar[tuple[str, ...]] = ()
    """As of ``ToolFormat``."""
    begin: ClassVar[str]
    end: ClassVar[str]
    """The markers around it, for a grammar."""
    other_ends: ClassVar[tuple[str, ...]] = ()
    """What the parser takes for the end beside that."""
    answer: ClassVar[str] = ""
    """What stands before the answer, for a grammar, reasoning or not."""
    efforts: ClassVar[tuple[str, ...] | None] = None
    """The values of ``reasoning_effort`` that these models were trained on, where they were and that is known."""

    @abstractmethod
    def detect(self, template: str) -> bool:
        """Whether a chat template has this format; one of them at most does."""

    @abstractmethod
    def begun(self, prompt: str, continued: str | None) -> bool:
        """Whether the prompt has begun the reasoning already, so that the output goes on with it.

        ``continued`` is the text of the message that the output continues, where it does; None where the prompt ends
        with what the template writes before an answer.
        """

    @abstractmethod
    def parse(self, reader: Reader, *, begun: bool) -> Steps[None]:
        """Read to the end of the reasoning, and nothing where there is none.

        The tools' format goes on from there. One in which reasoning and calls alternate reads to the end of the text.
        """
