"""gpt-oss ("harmony"): messages with a channel each: analysis is reasoning, final the answer, and others may be calls.

``<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.name
<|constrain|>json<|message|>{…}<|call|>``. Commentary without a recipient is for the user, and part of the answer.
"""

from __future__ import annotations

import re

from gateway.completion.formats.base import CallSyntax, ReasoningFormat, ToolFormat
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Sink, Steps

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
_MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, END, RETURN, CALL)
_MESSAGE = Markers(MESSAGE)
_END = Markers(END, RETURN, CALL, START)
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
ANALYSIS, FINAL, COMMENTARY = (f"{CHANNEL}{channel}{MESSAGE}" for channel in ("analysis", "final", "commentary"))
NEXT = f"{END}{START}assistant"
"""Ends a message that another one follows."""
LONGEST_HEADER = 256
"""Characters; what is longer is none."""


class Harmony(ToolFormat):
    models = "gpt-oss"
    markers = _MARKERS
    first = ""

    def detect(self, template: str) -> bool:
        return CHANNEL in template and MESSAGE in template

    def syntax(self, template: str) -> CallSyntax:
        """A call ends the answer: the token after it is one that generation stops at."""
        return CallSyntax(
            others=_MARKERS,
            before=f"{CHANNEL}commentary to=functions.",
            middle=f" {CONSTRAIN}json{MESSAGE}",
            after="",
            never="<|",
            single=True,
            text=FINAL,
            preface=(COMMENTARY, NEXT),
        )

    def parse(self, reader: Reader) -> Steps[None]:
        yield from _parse(reader, reader.content)


class HarmonyReasoning(ReasoningFormat):
    models = "gpt-oss"
    markers = _MARKERS
    efforts = ("low", "medium", "high")
    begin, end, answer = ANALYSIS, NEXT, FINAL
    other_ends = (START, END, RETURN, CALL)

    def detect(self, template: str) -> bool:
        return CHANNEL in template and MESSAGE in template

    def begun(self, prompt: str, continued: str | None) -> bool:
        return False

    def parse(self, reader: Reader, *, begun: bool) -> Steps[None]:
        yield from _parse(reader, reader.reasoning)


def _parse(reader: Reader, analysis: Sink) -> Steps[None]:
    """Messages to the end of the text; ``analysis`` takes the reasoning."""
    if not (yield from reader.hold_space()):
        return None
    reader.attempt("")
    ended: str | None = None
    while ended != "":
        header = yield from _read_header(reader)
        if header is None:
            return reader.reject()
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient is not None and reader.wants_calls:
            reader.call(recipient.group(1).removeprefix("functions."))
            ended = yield from reader.until(_END, reader.arguments)
            reader.end_call()
        else:
            reader.accept()
            reasons = channel is not None and channel.group(1) == "analysis"
            reader.in_reasoning = reasons and analysis is reader.reasoning
            ended = yield from reader.until(_END, analysis if reasons else reader.content)
            reader.in_reasoning = False
        if not (yield from reader.skip_space()):
            return None
        reader.drop_space()
        reader.attempt(ended if ended == START else "")
    return None


def _read_header(reader: Reader) -> Steps[str | None]:
    """All that stands before a message, or None where what comes next is none."""
    yield from reader.literal(START)
    yield from reader.literal("assistant")
    yield from reader.skip_space()
    parts = [(yield from reader.literal(CHANNEL, "to="))]
    if not parts[0] or not (yield from reader.verbatim(_MESSAGE, parts.append, at_most=LONGEST_HEADER)):
        return None
    return "".join(parts)


TOOLS, REASONING = Harmony(), HarmonyReasoning()
