from __future__ import annotations

import pytest
from hermes_calls import CALLED_PARIS, PARIS
from transcripts import Transcript, check, check_linear, check_prefixes

from gateway.completion.formats import reasoning_formats
from gateway.completion.parser import Parsing

OPEN = Parsing(reasoning_format="think", tool_format="hermes")
BEGUN = Parsing(reasoning_format="think", tool_format="hermes", in_reasoning=True)
ALONE = Parsing(reasoning_format="think")

TRANSCRIPTS = [
    (OPEN, Transcript("answer", "<think>\nHm. Yes.\n</think>\n\nYes.", "Yes.", reasoning="Hm. Yes.")),
    (OPEN, Transcript("white space before", "\n<think>Hm</think>Yes\n", "Yes\n", reasoning="Hm")),
    (OPEN, Transcript("no reasoning", "Yes. <think>Hm</think>", "Yes. <think>Hm</think>")),
    (OPEN, Transcript("white space first", "  Yes.", "  Yes.")),
    (OPEN, Transcript("empty", "<think>\n\n</think>\n\nYes.", "Yes.")),
    (OPEN, Transcript("call", f"<think>Hm</think>\n{PARIS}", calls=[CALLED_PARIS], reasoning="Hm")),
    (OPEN, Transcript("call in the reasoning", f"<think>{PARIS}</think>No.", "No.", reasoning=PARIS)),
    (OPEN, Transcript("cut", "<think>\nHm. \n", reasoning="Hm. \n")),
    (OPEN, Transcript("cut in a marker", "<think>Hm</thi", reasoning="Hm</thi")),
    (OPEN, Transcript("cut in the first marker", " <thi", " <thi")),
    (BEGUN, Transcript("begun", "\nHm.\n</think>\n\nYes.", "Yes.", reasoning="Hm.")),
    (BEGUN, Transcript("begun twice", "<think>\nHm.</think>Yes.", "Yes.", reasoning="Hm.")),
    (BEGUN, Transcript("begun and cut", "Hm", reasoning="Hm")),
    (BEGUN, Transcript("ended at once", "\n</think>\n\nYes.", "Yes.")),
    (ALONE, Transcript("without tools", f"<think>Hm</think> {PARIS}", PARIS, reasoning="Hm")),
    (ALONE, Transcript("two", "<think>a</think>b<think>c</think>", "b<think>c</think>", reasoning="a")),
]


@pytest.mark.parametrize(("parsing", "transcript"), TRANSCRIPTS, ids=lambda each: getattr(each, "name", ""))
def test_transcript(parsing: Parsing, transcript: Transcript) -> None:
    check(parsing, transcript)
    check_prefixes(parsing, transcript.text)


def test_reading_takes_linear_time() -> None:
    check_linear(OPEN, "<think>", " ", "<think>a </think>")
    check_linear(BEGUN, "word ", "</thin", "\n")


def test_whether_the_prompt_has_begun_it() -> None:
    think = reasoning_formats()["think"]
    assert think.begun("<|im_start|>assistant\n<think>\n", None)
    assert not think.begun("<|im_start|>assistant\n<think>\n\n</think>\n\n", None)
    assert not think.begun("<|im_start|>user\n<think><|im_end|><|im_start|>assistant\n", None)
    assert think.begun("irrelevant", "<think>Well")
    assert not think.begun("irrelevant", "<think>Well</think>So")
