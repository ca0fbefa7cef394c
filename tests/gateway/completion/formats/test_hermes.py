from __future__ import annotations

import pytest
from hermes_calls import CALLED_PARIS, CALLED_ROME, PARIS, ROME
from transcripts import Heard, Transcript, check, check_linear, check_prefixes, hear, new_parser

from gateway.completion.parser import Parsing

HERMES = Parsing(tool_format="hermes")
TRANSCRIPTS = [
    Transcript("plain", "Hello there,\n\nhow are you? ", "Hello there,\n\nhow are you? "),
    Transcript("nothing", ""),
    Transcript("white space alone", " \n ", " \n "),
    Transcript("one call", PARIS, calls=[CALLED_PARIS]),
    Transcript("two calls", f"{PARIS}\n{ROME}", calls=[CALLED_PARIS, CALLED_ROME]),
    Transcript("calls without a space", PARIS + ROME, calls=[CALLED_PARIS, CALLED_ROME]),
    Transcript("text before", f"Let me see.\n\n{PARIS}\n", "Let me see.", [CALLED_PARIS]),
    Transcript("text after", f"{PARIS}\n\nThat is it.", "That is it.", [CALLED_PARIS]),
    Transcript("text around", f"One. {PARIS}\nTwo.\n{ROME} Three. ", "One.\nTwo. Three. ", [CALLED_PARIS, CALLED_ROME]),
    Transcript(
        "unicode",
        'Où ? 🦊<tool_call>{"name": "größe", "arguments": {"città": "日本 \\u00e9 🦊"}}</tool_call>',
        "Où ? 🦊",
        [("größe", {"città": "日本 é 🦊"})],
    ),
    Transcript(
        "braces, quotes and markers in strings",
        '<tool_call>{"name": "f", "arguments": {"a": "}}]\\"{\\\\", "</tool_call>": "<tool_call>"}}</tool_call>',
        calls=[("f", {"a": '}}]"{\\', "</tool_call>": "<tool_call>"})],
    ),
    Transcript("no arguments", '<tool_call>{"name": "f"}</tool_call>', calls=[("f", {})]),
    Transcript("null arguments", '<tool_call>{"name": "f", "arguments": null}</tool_call>', calls=[("f", {})]),
    Transcript(
        "arguments first",
        '<tool_call>{"arguments": {"a": 1}, "id": "x", "name": "f"}</tool_call>',
        calls=[("f", {"a": 1})],
    ),
    Transcript(
        "arguments as text",
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"b\\"}"}</tool_call>',
        calls=[("f", {"a": "b"})],
    ),
    Transcript(
        "more members",
        '<tool_call>{"type": "function", "name": "f", "parameters": {"a": 1}, "id": 3}</tool_call>',
        calls=[("f", {"a": 1})],
    ),
    Transcript("no end marker", f"{PARIS[:-12]}", calls=[CALLED_PARIS]),
    Transcript("no end marker and text", PARIS[:-12] + "Well.", "Well.", [CALLED_PARIS]),
    # truncated
    Transcript("cut in a marker", "Hm <tool_ca", "Hm <tool_ca"),
    Transcript("cut after the marker", "Hm\n<tool_call>\n", "Hm\n<tool_call>\n"),
    Transcript("cut in the name", 'Hm <tool_call>{"name": "get_', 'Hm <tool_call>{"name": "get_'),
    Transcript("cut before the arguments", '<tool_call>{"name": "f", ', '<tool_call>{"name": "f", '),
    Transcript("cut in the arguments", PARIS[: PARIS.index("ris")], calls=[("get_weather", '{"city": "Pa')]),
    # malformed
    Transcript("no JSON", "<tool_call>get_weather</tool_call>", "<tool_call>get_weather</tool_call>"),
    Transcript("an array", "<tool_call>[1]</tool_call>!", "<tool_call>[1]</tool_call>!"),
    Transcript("an empty object", "<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>"),
    Transcript("no name", '<tool_call>{"arguments": {}}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>'),
    Transcript("a wrong name", '<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>'),
    Transcript("single quotes", " <tool_call>{'name': 'f'}</tool_call>", " <tool_call>{'name': 'f'}</tool_call>"),
    Transcript("a marker twice", f"<tool_call>{PARIS}", "<tool_call>", [CALLED_PARIS]),
    Transcript("a malformed call, then a good one", f"<tool_call>no {PARIS}", "<tool_call>no", [CALLED_PARIS]),
    Transcript(
        "no last bracket", '<tool_call>{"name": "f", "arguments": {"a": 1}\n</tool_call>ok', "ok", [("f", {"a": 1})]
    ),
    Transcript(
        "the arguments go wrong",
        '<tool_call>{"name": "f", "arguments": {"a": oops}} </tool_call>ok',
        "ok",
        [("f", '{"a": oops}}')],
    ),
]


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda each: each.name)
def test_transcript(transcript: Transcript) -> None:
    check(HERMES, transcript)
    check_prefixes(HERMES, transcript.text)


def test_arguments_are_handed_on_as_they_come() -> None:
    parser, heard, read, seen = new_parser(HERMES), Heard(), 0, []
    for at in (PARIS.index('", "arg'), PARIS.index("Paris"), PARIS.index("aris"), PARIS.index("</tool")):
        parser.feed(PARIS[read:at])
        read = at
        heard.take(parser)
        seen.append([(call.name, call.arguments) for call in heard.state()[2]])
    assert seen == [
        [],
        [("get_weather", '{"city": "')],
        [("get_weather", '{"city": "P')],
        [("get_weather", '{"city": "Paris"}')],
    ]


def test_only_the_first_call_where_one_is_allowed() -> None:
    single = Parsing(tool_format="hermes", single_call=True)
    for text in (f"A. {PARIS}", f"A. {PARIS}\n{ROME}", f"A. {PARIS} and more"):
        check(single, Transcript("single", text, "A.", [CALLED_PARIS]))


def test_ids_are_those_of_the_same_call_and_no_other() -> None:
    one, other = (hear(HERMES, [text])[2] for text in (PARIS, f"Text before. {PARIS}{ROME}"))
    assert one[0].id == other[0].id and other[0].id != other[1].id
    assert one[0].id is not None and one[0].id.startswith("call_") and len(one[0].id) == 29


def test_reading_takes_linear_time() -> None:
    check_linear(
        HERMES, "word ", " \n", "<tool_call>", "<tool_call>{", PARIS, '<tool_call>{"name": "', "<tool", '{"name": "f",'
    )
    inside = '<tool_call>{"name": "f", "arguments": {"a": [' + "0" * 400
    check_linear(HERMES, inside, '<tool_call>{"arguments": "' + "a\\n" * 150)
