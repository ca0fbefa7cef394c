"""Llama 4 and others: a whole answer that is a Python list of calls, ``[name(key=value, …), …]``.

Arguments are put into JSON as they come. Values are what Python's literals are: text, numbers, True, False, None,
lists, tuples and dictionaries; JSON's own spellings are taken too.
"""

from __future__ import annotations

import re

from gateway.completion.formats.base import ArgumentSyntax, CallSyntax, ToolFormat
from gateway.completion.formats.json_call import Outcome, read_rest_of_broken
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.python_literal import read_literal
from gateway.completion.formats.reader import Reader, Steps
from gateway.completion.formats.tagged import escaped

TAGS = ("<|python_start|>", "<|python_tag|>")
END = "<|python_end|>"
_LISTS = re.compile(r"\[func_name1\(params_name1=")


class Pythonic(ToolFormat):
    models = "Llama 4, Llama 3.2 with its pythonic template, ToolACE"
    markers = (*TAGS, END)
    first = "[<"

    def detect(self, template: str) -> bool:
        return _LISTS.search(template) is not None

    def syntax(self, template: str) -> CallSyntax:
        """Values are spelt as JSON, which the parser takes as well."""
        return CallSyntax(
            opening="[",
            others=TAGS,
            begin="[",
            before="",
            middle="(",
            after=")",
            between=", ",
            end="]",
            arguments=ArgumentSyntax(middle="=", between=", ", name=r"[A-Za-z_]\w*"),
        )

    def parse(self, reader: Reader) -> Steps[None]:
        """Calls are the beginning of the answer."""
        tag = yield from reader.begins_with(*TAGS)
        if not tag and (yield from reader.peek()) != "[":
            return
        reader.attempt(tag)
        if (yield from reader.skip_space()) != "[":
            return reader.reject()
        reader.skip()
        while True:
            outcome = yield from _read_call(reader)
            if outcome == "none":
                return reader.reject()
            if outcome == "broken":
                return (yield from read_rest_of_broken(reader, Markers(END)))
            following = yield from reader.skip_space()
            if following == "]":
                reader.skip()
            if following != ",":
                yield from reader.begins_with(END)
                return None
            reader.attempt(reader.skip())


def _read_call(reader: Reader) -> Steps[Outcome]:
    yield from reader.skip_space()
    name = yield from reader.word()
    if not name or (yield from reader.peek()) != "(":
        return "none"
    reader.skip()
    reader.call(name)
    before = "{"
    while (yield from reader.skip_space()) != ")":
        if before != "{":
            if (yield from reader.peek()) != ",":
                return "broken"
            reader.skip()
            if (yield from reader.skip_space()) == ")":
                break
        key = yield from reader.word()
        reader.argue(f'{before}"{escaped(key)}": ')
        before = ", "
        if not key or (yield from reader.skip_space()) != "=":
            return "broken"
        reader.skip()
        if not (yield from read_literal(reader)):
            return "broken"
    reader.skip()
    reader.argue("{}" if before == "{" else "}")
    reader.end_call()
    return "complete"


TOOLS = Pythonic()
