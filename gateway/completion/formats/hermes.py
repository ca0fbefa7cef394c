"""Hermes and Qwen: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, once for each call."""

from __future__ import annotations

from gateway.completion.formats.base import CallSyntax, ToolFormat
from gateway.completion.formats.json_call import read_call, read_rest_of_broken
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

BEGIN, END = "<tool_call>", "</tool_call>"
_BEGIN, _END = Markers(BEGIN), Markers(END)


class Hermes(ToolFormat):
    models = "Hermes 2 and 3, Qwen2.5, Qwen3, QwQ, Granite 4, SmolLM3 and others"
    markers = (BEGIN, END)
    first = "<"

    def detect(self, template: str) -> bool:
        return BEGIN in template and "<arg_key>" not in template and "<function=" not in template

    def syntax(self, template: str) -> CallSyntax:
        return CallSyntax(
            trigger=BEGIN,
            before=f'{BEGIN}\n{{"name": "',
            middle='", "arguments": ',
            after=f"}}\n{END}",
            between="\n",
        )

    def parse(self, reader: Reader) -> Steps[None]:
        while marker := (yield from reader.until(_BEGIN, reader.content)):
            reader.attempt(marker)
            outcome = yield from read_call(reader)
            if outcome == "none":
                reader.reject()
            elif outcome == "broken":
                yield from read_rest_of_broken(reader, _END)
            else:
                yield from reader.begins_with(END)


TOOLS = Hermes()
