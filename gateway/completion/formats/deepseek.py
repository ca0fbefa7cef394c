"""DeepSeek, with a token before and after each call.

V3.1 and V3.2-Exp write ``name<｜tool▁sep｜>{…}`` between them; V3 and R1 write ``function<｜tool▁sep｜>name``, a line
break, and the arguments in a fence of Markdown.
"""

from __future__ import annotations

from gateway.completion.formats.base import CallSyntax, ToolFormat
from gateway.completion.formats.json_call import Outcome, read_arguments
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

CALLS, END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_BEGIN, _CALL_END = Markers(CALLS, CALL), Markers(END_CALL)
FENCE = "```"


class DeepSeek(ToolFormat):
    models = "DeepSeek V3, R1, V3.1 and V3.2-Exp"
    markers = (CALLS, END_CALLS, CALL, SEPARATOR, END_CALL)
    first = "<"

    def detect(self, template: str) -> bool:
        return CALL in template

    def syntax(self, template: str) -> CallSyntax:
        fenced = FENCE in template
        return CallSyntax(
            trigger=CALLS,
            others=(CALL,),
            begin=CALLS,
            before=f"{CALL}function{SEPARATOR}" if fenced else CALL,
            middle=f"\n{FENCE}json\n" if fenced else SEPARATOR,
            after=f"\n{FENCE}{END_CALL}" if fenced else END_CALL,
            between="\n" if fenced else "",
            end=END_CALLS,
        )

    def parse(self, reader: Reader) -> Steps[None]:
        while marker := (yield from reader.until(_BEGIN, reader.content)):
            reader.attempt(marker)
            if marker == CALLS:
                yield from reader.skip_space()
                if not (yield from reader.literal(CALL)):
                    reader.reject()
                    continue
            outcome = yield from _read(reader)
            if outcome == "none":
                reader.reject()
                continue
            if outcome == "broken":
                yield from reader.until(_CALL_END, reader.arguments)
            else:
                yield from reader.begins_with(FENCE)
                yield from reader.begins_with(END_CALL)
            reader.end_call()
            yield from reader.begins_with(END_CALLS)


def _read(reader: Reader) -> Steps[Outcome]:
    yield from reader.skip_space()
    name = yield from reader.word()
    if not name or not (yield from reader.literal(SEPARATOR)):
        return "none"
    if (yield from reader.skip_space()) != "{":
        name = yield from reader.word()
        yield from reader.skip_space()
        if not name or not (yield from reader.literal(f"{FENCE}json")) or not (yield from reader.skip_space()):
            return "none"
    reader.call(name)
    return "complete" if (yield from read_arguments(reader)) else "broken"


TOOLS = DeepSeek()
