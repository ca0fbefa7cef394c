from __future__ import annotations

import pytest
from transcripts import Transcript, check, check_linear, check_prefixes

from gateway.completion.formats import reasoning_formats
from gateway.completion.parser import Parsing

MISTRAL = Parsing(reasoning_format="mistral", tool_format="mistral")
GRANITE = Parsing(reasoning_format="granite", tool_format="granite")
TRANSCRIPTS = [
    (MISTRAL, Transcript("mistral", "[THINK]Hm[/TH[/THINK]Yes", "Yes", reasoning="Hm[/TH")),
    (MISTRAL, Transcript("mistral call", "[THINK]Hm[/THINK][TOOL_CALLS]f[ARGS]{}", calls=[("f", {})], reasoning="Hm")),
    (MISTRAL, Transcript("mistral without", "Yes [THINK]", "Yes [THINK]")),
    (
        GRANITE,
        Transcript(
            "granite",
            "Here is my thought process:\n\nHm.\n\nHere is my response:\nYes. Here is",
            "Yes. Here is",
            reasoning="Hm.",
        ),
    ),
    (
        GRANITE,
        Transcript(
            "granite, other words", "Here's my thought process: Hm. Here's my response: Yes", "Yes", reasoning="Hm."
        ),
    ),
    (GRANITE, Transcript("granite without", "Here is my response: Yes", "Here is my response: Yes")),
    (GRANITE, Transcript("granite cut", "Here is my thought process: Hm. Here is my", reasoning="Hm. Here is my")),
]


@pytest.mark.parametrize(("parsing", "transcript"), TRANSCRIPTS, ids=lambda each: getattr(each, "name", ""))
def test_transcript(parsing: Parsing, transcript: Transcript) -> None:
    check(parsing, transcript)
    check_prefixes(parsing, transcript.text)


def test_reading_takes_linear_time() -> None:
    check_linear(MISTRAL, "[THINK]", "[THINK] a [/THINK]", "[/THIN", size=300)
    check_linear(GRANITE, "Here is my thought process: a ", "Here is my ", size=300)


def test_whether_the_prompt_has_begun_it() -> None:
    formats = reasoning_formats()
    assert formats["mistral"].begun("[/INST][THINK]", None)
    assert not formats["mistral"].begun("[/INST]", None)
    assert formats["mistral"].begun("", "[THINK]a") and not formats["mistral"].begun("", "[THINK]a[/THINK]b")
    assert not formats["granite"].begun("anything", None)
    assert not formats["harmony"].begun("<|start|>assistant", None)
