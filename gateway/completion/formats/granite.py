"""Granite 3: ``<|tool_call|>`` or ``<tool_call>`` before an array of calls, and reasoning under a heading.

Granite 4 writes calls as Hermes does, and Granite 3.3 reasons in ``<think>``.
"""

from __future__ import annotations

from gateway.completion.formats.base import CallSyntax, ReasoningFormat, ToolFormat
from gateway.completion.formats.json_call import read_calls, read_rest_of_broken
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

TOKEN, TAG = "<|tool_call|>", "<tool_call>"
_BEGIN = Markers(TOKEN, TAG)
THOUGHTS = ("Here is my thought process:", "Here's my thought process:")
RESPONSE = ("Here is my response:", "Here's my response:")
_RESPONSE = Markers(*RESPONSE)


class Granite(ToolFormat):
    models = "Granite 3.0 to 3.3"
    markers = (TOKEN,)
    first = "<"

    def detect(self, template: str) -> bool:
        return TOKEN in template and "<|start_of_role|>" in template

    def syntax(self, template: str) -> CallSyntax:
        return CallSyntax(
            trigger=TOKEN,
            others=(TAG,),
            begin=f"{TOKEN}[",
            before='{"name": "',
            middle='", "arguments": ',
            after="}",
            between=", ",
            end="]",
        )

    def parse(self, reader: Reader) -> Steps[None]:
        while marker := (yield from reader.until(_BEGIN, reader.content)):
            reader.attempt(marker)
            outcome = yield from read_calls(reader)
            if outcome == "none":
                reader.reject()
            elif outcome == "broken":
                yield from read_rest_of_broken(reader, Markers())


class GraniteReasoning(ReasoningFormat):
    models = "Granite 3.2"
    begin, end, other_ends = THOUGHTS[0], RESPONSE[0], RESPONSE[1:]

    def detect(self, template: str) -> bool:
        return "Here is my thought process:" in template

    def begun(self, prompt: str, continued: str | None) -> bool:
        return False

    def parse(self, reader: Reader, *, begun: bool) -> Steps[None]:
        if (yield from reader.begins_with(*THOUGHTS)):
            reader.in_reasoning = True
            yield from reader.until(_RESPONSE, reader.reasoning)
            reader.in_reasoning = False


TOOLS, REASONING = Granite(), GraniteReasoning()
