"""GLM: ``<tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value>…</tool_call>``: text is plain, all else JSON."""

from __future__ import annotations

from gateway.completion.formats.base import ArgumentSyntax, CallSyntax, ToolFormat
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps
from gateway.completion.formats.tagged import TaggedArguments

BEGIN, END = "<tool_call>", "</tool_call>"
KEY, END_KEY, VALUE, END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_BEGIN, _END, _END_KEY, _END_VALUE = Markers(BEGIN), Markers(END), Markers(END_KEY), Markers(END_VALUE)


class Glm(ToolFormat):
    models = "GLM 4.5, 4.6, 4.7 and later"
    markers = (BEGIN, END, KEY, END_KEY, VALUE, END_VALUE)
    first = "<"

    def detect(self, template: str) -> bool:
        return KEY in template

    def syntax(self, template: str) -> CallSyntax:
        """Older templates write each tag on a line of its own."""
        line = "\n" if f"{END_KEY}\n{VALUE}" in template else ""
        return CallSyntax(
            trigger=BEGIN,
            before=BEGIN,
            middle="",
            after=f"{line}{END}",
            between=line,
            never="</",
            arguments=ArgumentSyntax(
                before=f"{line}{KEY}",
                middle=f"{END_KEY}{line}{VALUE}",
                after=END_VALUE,
                name=r"[^\s<>](?:[^<>\r\n]*[^\s<>])?",
                plain_text=True,
            ),
        )

    def parse(self, reader: Reader) -> Steps[None]:
        while marker := (yield from reader.until(_BEGIN, reader.content)):
            reader.attempt(marker)
            yield from reader.skip_space()
            name = yield from reader.word()
            yield from reader.skip_space()
            first = (yield from reader.literal(KEY, END)) if name else ""
            if not first:
                reader.reject()
                continue
            reader.call(name)
            yield from _read_parameters(reader, name, first)


def _read_parameters(reader: Reader, tool: str, following: str) -> Steps[None]:
    """``following`` is the marker that was read after the name."""
    arguments = TaggedArguments(reader, tool)
    while following == KEY:
        key: list[str] = []
        yield from reader.verbatim(_END_KEY, key.append)
        yield from reader.skip_space()
        if not (yield from reader.literal(VALUE)):
            break
        yield from arguments.read("".join(key).strip(), _END_VALUE)
        yield from reader.skip_space()
        following = yield from reader.literal(KEY, END)
    if following != END:
        # What stands where a parameter should is none, and nothing can be made of it.
        following = yield from reader.until(_END, reader.content)
    arguments.end(complete=following == END)


TOOLS = Glm()
