"""Mistral: ``[TOOL_CALLS]`` before an array of calls or, since its eleventh tokenizer, before each name.

``[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]``, ``[TOOL_CALLS]name[ARGS]{…}[TOOL_CALLS]…`` and the latter with
``[CALL_ID]id`` before the arguments. Models that reason (Magistral) do so in ``[THINK]…[/THINK]``.
"""

from __future__ import annotations

from gateway.completion.formats.base import CallSyntax, ReasoningFormat, ToolFormat
from gateway.completion.formats.json_call import Outcome, read_arguments, read_calls, read_rest_of_broken
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
THINK, END_THINK = "[THINK]", "[/THINK]"
_CALLS, _END_THINK = Markers(CALLS), Markers(END_THINK)


class Mistral(ToolFormat):
    models = "Mistral 7B v0.3 and later, Nemo, Small, Large, Ministral, Devstral, Magistral"
    markers = (CALLS, CALL_ID, ARGS)
    first = "["

    def detect(self, template: str) -> bool:
        return CALLS in template

    def call_id(self, digest: str) -> str:
        """The templates accept nine letters and digits only."""
        return digest[:9]

    def syntax(self, template: str) -> CallSyntax:
        if ARGS in template:
            return CallSyntax(trigger=CALLS, before=CALLS, middle=ARGS, after="")
        return CallSyntax(
            trigger=CALLS,
            begin=f"{CALLS} [",
            before='{"name": "',
            middle='", "arguments": ',
            after="}",
            between=", ",
            end="]",
        )

    def parse(self, reader: Reader) -> Steps[None]:
        marker = yield from reader.until(_CALLS, reader.content)
        while marker:
            reader.attempt(marker)
            if (yield from reader.skip_space()) in ("[", "{"):
                outcome = yield from read_calls(reader)
            else:
                outcome = yield from _named_call(reader)
            if outcome == "none":
                reader.reject()
            elif outcome == "broken":
                yield from read_rest_of_broken(reader, Markers())
            marker = yield from reader.until(_CALLS, reader.content)


def _named_call(reader: Reader) -> Steps[Outcome]:
    name = yield from reader.word()
    if not name:
        return "none"
    if (yield from reader.literal(ARGS, CALL_ID)) == CALL_ID:
        yield from reader.word()
        if not (yield from reader.literal(ARGS)):
            return "none"
    if (yield from reader.skip_space()) != "{":  # some write the arguments without the marker
        return "none"
    reader.call(name)
    if not (yield from read_arguments(reader)):
        return "broken"
    reader.end_call()
    return "complete"


class MistralReasoning(ReasoningFormat):
    models = "Magistral and other Mistral models that reason"
    markers = (THINK, END_THINK)
    begin, end = THINK, END_THINK

    def detect(self, template: str) -> bool:
        return END_THINK in template

    def begun(self, prompt: str, continued: str | None) -> bool:
        if continued is not None:
            return continued.rfind(THINK) > continued.rfind(END_THINK)
        return prompt.rstrip().endswith(THINK)

    def parse(self, reader: Reader, *, begun: bool) -> Steps[None]:
        yield from reader.reasoned(THINK, _END_THINK, begun=begun)


TOOLS, REASONING = Mistral(), MistralReasoning()
