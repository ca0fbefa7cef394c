"""Phi-4-mini: an array of calls after ``functools``, or between ``<|tool_call|>`` and ``<|/tool_call|>``."""

from __future__ import annotations

from gateway.completion.formats.base import CallSyntax, ToolFormat
from gateway.completion.formats.json_call import read_calls, read_rest_of_broken
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

FUNCTOOLS, BEGIN, END = "functools[", "<|tool_call|>", "<|/tool_call|>"
_BEGIN, _END = Markers(FUNCTOOLS, BEGIN), Markers(END)


class Phi(ToolFormat):
    models = "Phi-4-mini"
    markers = (BEGIN, END)
    first = "f<"

    def detect(self, template: str) -> bool:
        return FUNCTOOLS in template or END in template

    def syntax(self, template: str) -> CallSyntax:
        spelt = FUNCTOOLS in template
        return CallSyntax(
            trigger=FUNCTOOLS if spelt else BEGIN,
            others=(BEGIN if spelt else FUNCTOOLS,),
            begin=FUNCTOOLS if spelt else f"{BEGIN}[",
            before='{"name": "',
            middle='", "arguments": ',
            after="}",
            between=", ",
            end="]" if spelt else f"]{END}",
        )

    def parse(self, reader: Reader) -> Steps[None]:
        while marker := (yield from reader.until(_BEGIN, reader.content)):
            reader.attempt(marker)
            outcome = yield from read_calls(reader, opened=marker == FUNCTOOLS)
            if outcome == "none":
                reader.reject()
            elif outcome == "broken":
                yield from read_rest_of_broken(reader, _END)
            elif marker == BEGIN:
                yield from reader.begins_with(END)


TOOLS = Phi()
