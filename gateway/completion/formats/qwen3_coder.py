"""Qwen3-Coder: ``<tool_call><function=name><parameter=key>value</parameter>…</function></tool_call>``, on lines."""

from __future__ import annotations

from gateway.completion.formats.base import ArgumentSyntax, CallSyntax, ToolFormat
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps
from gateway.completion.formats.tagged import TaggedArguments

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION, PARAMETER, END_PARAMETER = "<function=", "</function>", "<parameter=", "</parameter>"
_BEGIN, _END, _END_PARAMETER = Markers(BEGIN, FUNCTION), Markers(END, END_FUNCTION), Markers(END_PARAMETER)


class Qwen3Coder(ToolFormat):
    models = "Qwen3-Coder, Qwen3.5, Nemotron 3"
    markers = (BEGIN, END)
    first = "<"

    def detect(self, template: str) -> bool:
        return FUNCTION in template and PARAMETER in template

    def syntax(self, template: str) -> CallSyntax:
        return CallSyntax(
            trigger=BEGIN,
            others=(FUNCTION,),
            before=f"{BEGIN}\n{FUNCTION}",
            middle=">\n",
            after=f"{END_FUNCTION}\n{END}",
            between="\n",
            never="</",
            arguments=ArgumentSyntax(
                before=PARAMETER, middle=">\n", after=f"\n{END_PARAMETER}\n", name=r"[\w.-]+", plain_text=True
            ),
        )

    def parse(self, reader: Reader) -> Steps[None]:
        """Some leave the first marker out."""
        while marker := (yield from reader.until(_BEGIN, reader.content)):
            reader.attempt(marker)
            yield from reader.skip_space()
            name = ""
            if marker == FUNCTION or (yield from reader.literal(FUNCTION)):
                name = yield from reader.word()
            if not name or (yield from reader.peek()) != ">":
                reader.reject()
                continue
            reader.skip()
            reader.call(name)
            yield from _read_parameters(reader, name)


def _read_parameters(reader: Reader, tool: str) -> Steps[None]:
    arguments = TaggedArguments(reader, tool)
    yield from reader.skip_space()
    while (yield from reader.literal(PARAMETER)):
        key = yield from reader.word()
        if (yield from reader.peek()) != ">":
            break
        reader.skip()
        yield from arguments.read(key, _END_PARAMETER, without_line_breaks=True)
        yield from reader.skip_space()
    ended = yield from reader.literal(END_FUNCTION, END)
    if not ended:
        # What stands where a parameter should is none, and nothing can be made of it.
        ended = yield from reader.until(_END, reader.content)
    if ended == END_FUNCTION:
        yield from reader.begins_with(END)
    arguments.end(complete=bool(ended))


TOOLS = Qwen3Coder()
