"""``<think>…</think>`` before the answer. Some templates begin the reasoning in the prompt, others leave that out."""

from __future__ import annotations

from gateway.completion.formats.base import ReasoningFormat
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

BEGIN, END = "<think>", "</think>"
_END = Markers(END)


class Think(ReasoningFormat):
    models = "DeepSeek R1, V3.1 and later, Qwen3, QwQ, GLM 4.5 and later, and others"
    markers = (BEGIN, END)
    begin, end = BEGIN, END

    def detect(self, template: str) -> bool:
        return END in template

    def begun(self, prompt: str, continued: str | None) -> bool:
        if continued is not None:
            return continued.rfind(BEGIN) > continued.rfind(END)
        return prompt.rstrip().endswith(BEGIN)

    def parse(self, reader: Reader, *, begun: bool) -> Steps[None]:
        yield from reader.reasoned(BEGIN, _END, begun=begun)


REASONING = Think()
