"""Llama 3: a whole answer that is ``{"name": …, "parameters": {…}}``, or several with semicolons between them."""

from __future__ import annotations

from gateway.completion.formats.base import CallSyntax, ToolFormat
from gateway.completion.formats.json_call import read_call, read_rest_of_broken
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

TAG = "<|python_tag|>"
_TAG, _END = Markers(TAG), Markers()


class Llama3Json(ToolFormat):
    models = "Llama 3.1, 3.2 and 3.3"
    markers = (TAG,)
    first = "{<"

    def detect(self, template: str) -> bool:
        return '"parameters": dictionary of argument name' in template

    def syntax(self, template: str) -> CallSyntax:
        return CallSyntax(
            opening="{", others=(TAG,), before='{"name": "', middle='", "parameters": ', after="}", between="; "
        )

    def parse(self, reader: Reader) -> Steps[None]:
        """Calls begin the answer, or follow the tag."""
        tag = yield from reader.begins_with(TAG)
        if not tag and (yield from reader.peek()) != "{":
            tag = yield from reader.until(_TAG, reader.content)
            if not tag:
                return
        reader.attempt(tag)
        outcome = yield from read_call(reader)
        while outcome == "complete" and (yield from reader.hold_space()) == ";":
            reader.attempt(reader.skip())
            outcome = yield from read_call(reader)
        if outcome == "none":
            reader.reject()
        elif outcome == "broken":
            yield from read_rest_of_broken(reader, _END)


TOOLS = Llama3Json()
