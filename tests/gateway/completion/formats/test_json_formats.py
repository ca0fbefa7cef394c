"""Formats that write calls as JSON objects, each with its own markers around them."""

from __future__ import annotations

import pytest
from transcripts import Transcript, check, check_linear, check_prefixes

from gateway.completion.parser import Parsing

F = '{"name": "f", "arguments": {"a": "}]\\"", "b": [1, {"c": null}]}}'
G = '{"name": "größe", "arguments": {}}'
CALLED_F = ("f", {"a": '}]"', "b": [1, {"c": None}]})
CALLED_G = ("größe", {})
ONLY_F, F_AND_G = [CALLED_F], [CALLED_F, CALLED_G]
ARGUMENTS = F[len('{"name": "f", "arguments": ') : -1]

DSML = "<｜tool▁{}｜>"
CALLS, END_CALLS = DSML.format("calls▁begin"), DSML.format("calls▁end")
CALL, SEP, END_CALL = DSML.format("call▁begin"), DSML.format("sep"), DSML.format("call▁end")
V31_F, V31_G = f"{CALL}f{SEP}{ARGUMENTS}{END_CALL}", f"{CALL}größe{SEP}{{}}{END_CALL}"
V3_F = f"{CALL}function{SEP}f\n```json\n{ARGUMENTS}\n```{END_CALL}"
V3_G = f"{CALL}function{SEP}größe\n```json\n{{}}\n```{END_CALL}"
LLAMA_F, LLAMA_G = F.replace("arguments", "parameters"), G.replace("arguments", "parameters")

TRANSCRIPTS: dict[str, list[Transcript]] = {
    "mistral": [
        Transcript("plain", "Hello [TOOL] [1] ", "Hello [TOOL] [1] "),
        Transcript("one", f"[TOOL_CALLS] [{F}]", calls=ONLY_F),
        Transcript("two", f"[TOOL_CALLS][{F}, {G}]", calls=F_AND_G),
        Transcript("with ids", f'[TOOL_CALLS] [{F[:-1]}, "id": "abcdefghi"}}]', calls=ONLY_F),
        Transcript("one object", f"[TOOL_CALLS]{F}", calls=ONLY_F),
        Transcript("text before", f"Let me see: [TOOL_CALLS] [{F}]", "Let me see:", ONLY_F),
        Transcript("text after", f"[TOOL_CALLS][{F}] Done.", "Done.", ONLY_F),
        Transcript("names", f"[TOOL_CALLS]f[ARGS]{ARGUMENTS}[TOOL_CALLS]größe[ARGS]{{}}", calls=F_AND_G),
        Transcript("names and ids", f"So[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{ARGUMENTS}", "So", ONLY_F),
        Transcript("name without a marker", f"[TOOL_CALLS]f{ARGUMENTS}", calls=ONLY_F),
        Transcript("a bad second", f"[TOOL_CALLS][{F}, oops]", ", oops]", ONLY_F),
        Transcript("no call", "[TOOL_CALLS] []", "[TOOL_CALLS] []"),
        Transcript("no name", "[TOOL_CALLS]!", "[TOOL_CALLS]!"),
        Transcript("no arguments", "[TOOL_CALLS]f and more", "[TOOL_CALLS]f and more"),
        Transcript("cut in the name", "[TOOL_CALLS]get_we", "[TOOL_CALLS]get_we"),
        Transcript("cut in the arguments", '[TOOL_CALLS]f[ARGS]{"a": [1', calls=[("f", '{"a": [1')]),
    ],
    "deepseek": [
        Transcript("plain", "Hello <｜tool ", "Hello <｜tool "),
        Transcript("one", f"{CALLS}{V31_F}{END_CALLS}", calls=ONLY_F),
        Transcript("two", f"{CALLS}{V31_F}{V31_G}{END_CALLS}", calls=F_AND_G),
        Transcript("text around", f"So.\n{CALLS}{V31_F}{END_CALLS}\nDone.", "So.\nDone.", ONLY_F),
        Transcript("one in a fence", f"{CALLS}{V3_F}{END_CALLS}", calls=ONLY_F),
        Transcript("two in fences", f"So.\n\n{CALLS}{V3_F}\n{V3_G}{END_CALLS}", "So.", F_AND_G),
        Transcript("without the outer markers", f"{V31_F}{V31_G}", calls=F_AND_G),
        Transcript("no call", f"{CALLS}{END_CALLS}", f"{CALLS}{END_CALLS}"),
        Transcript("no name", f"{CALLS}{CALL}{SEP}{{}}", f"{CALLS}{CALL}{SEP}{{}}"),
        Transcript("no fence", f"{CALL}function{SEP}f\n{{}}", f"{CALL}function{SEP}f\n{{}}"),
        Transcript("cut", f"{CALLS}{CALL}get_w", f"{CALLS}{CALL}get_w"),
        Transcript("cut in the arguments", f'{CALLS}{CALL}f{SEP}{{"a"', calls=[("f", '{"a"')]),
        Transcript("arguments go wrong", f"{CALL}f{SEP}{{'a'}}{END_CALL}ok", "ok", [("f", "{'a'}")]),
    ],
    "phi": [
        Transcript("plain", "Hello functools [1]", "Hello functools [1]"),
        Transcript("one", f"functools[{F}]", calls=ONLY_F),
        Transcript("two", f"functools[{F},\n{G}]", calls=F_AND_G),
        Transcript("tokens", f"So: <|tool_call|>[{F}, {G}]<|/tool_call|>!", "So:!", F_AND_G),
        Transcript("no call", "functools[]", "functools[]"),
        Transcript("cut", 'functools[{"name": "f"', 'functools[{"name": "f"'),
        Transcript("arguments go wrong", 'functools[{"name": "f", "arguments": {x}}]', calls=[("f", "{x}}]")]),
    ],
    "granite": [
        Transcript("plain", "Hello <|tool> ", "Hello <|tool> "),
        Transcript("one", f"<|tool_call|>[{F}]", calls=ONLY_F),
        Transcript("two", f"<|tool_call|> [{F}, {G}]", calls=F_AND_G),
        Transcript("tag", f"<tool_call>[{F}]", calls=ONLY_F),
        Transcript("text around", f"So: <|tool_call|>{F} and <tool_call>[{G}]", "So: and", F_AND_G),
        Transcript("no call", "<|tool_call|>[]", "<|tool_call|>[]"),
        Transcript("cut", '<|tool_call|>[{"na', '<|tool_call|>[{"na'),
        Transcript("the second is cut", f'<|tool_call|>[{F}, {{"na', ', {"na', ONLY_F),
    ],
    "llama3_json": [
        Transcript("plain", "Hello {1}", "Hello {1}"),
        Transcript("one", LLAMA_F, calls=ONLY_F),
        Transcript("white space", f"\n\n{LLAMA_F}\n", calls=ONLY_F),
        Transcript("several", f"{LLAMA_F}; {LLAMA_G}", calls=F_AND_G),
        Transcript("arguments by another name", F, calls=ONLY_F),
        Transcript("tag", f"<|python_tag|>{LLAMA_F}", calls=ONLY_F),
        Transcript("tag after text", f"So: <|python_tag|>{LLAMA_F};{LLAMA_G}", "So:", F_AND_G),
        Transcript("text after", f"{LLAMA_F} Done.", "Done.", ONLY_F),
        Transcript("other JSON", '{"city": "Paris", "name": "f"}', '{"city": "Paris", "name": "f"}'),
        Transcript("code", '<|python_tag|>search.call(query="x")', '<|python_tag|>search.call(query="x")'),
        Transcript("a call later on", f"No: {LLAMA_F}", f"No: {LLAMA_F}"),
        Transcript("a bad second", f"{LLAMA_F}; no", "; no", ONLY_F),
        Transcript("cut", '{"name": "f", "par', '{"name": "f", "par'),
        Transcript("cut in the arguments", '{"name": "f", "parameters": {"a": "b', calls=[("f", '{"a": "b')]),
    ],
}
CASES = [(name, each) for name, transcripts in TRANSCRIPTS.items() for each in transcripts]


@pytest.mark.parametrize(("name", "transcript"), CASES, ids=[f"{name}: {each.name}" for name, each in CASES])
def test_transcript(name: str, transcript: Transcript) -> None:
    parsing = Parsing(tool_format=name)
    check(parsing, transcript)
    check_prefixes(parsing, transcript.text)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_reading_takes_linear_time(name: str) -> None:
    texts = [each.text for each in TRANSCRIPTS[name]]
    check_linear(Parsing(tool_format=name), *texts, size=300)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_one_call_where_one_is_allowed(name: str) -> None:
    text = next(each.text for each in TRANSCRIPTS[name] if len(each.calls) == 2)
    content = next(each.content for each in TRANSCRIPTS[name] if len(each.calls) == 2)
    check(Parsing(tool_format=name, single_call=True), Transcript("one", text, content.rstrip("!"), ONLY_F))
