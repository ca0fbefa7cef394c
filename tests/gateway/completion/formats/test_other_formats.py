"""Formats whose calls are not JSON as it stands: arguments between tags, in Python, and in messages of their own."""

from __future__ import annotations

import pytest
from transcripts import Transcript, check, check_linear, check_prefixes

from gateway.completion.parser import Parsing

SCHEMAS = {"f": {"s": "string", "n": "integer"}}
TAGGED_F = ("f", {"s": ' a "b"\n c </x> 日', "n": 12, "o": {"k": [1]}, "t": "plain text", "u": True})
ARGS = [("s", TAGGED_F[1]["s"]), ("n", "12"), ("o", '{"k": [1]}'), ("t", "plain text"), ("u", "true")]
GLM_F = (
    "<tool_call>f\n"
    + "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in ARGS)
    + "</tool_call>"
)
CODER_F = (
    "<tool_call>\n<function=f>\n"
    + "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in ARGS)
    + "</function>\n</tool_call>"
)
CODER_G = "<tool_call>\n<function=g.h-i>\n</function>\n</tool_call>"

ANALYSIS = "<|channel|>analysis<|message|>Hm. <b>\n<|end|>"
NEXT = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "<|x|>"}'
CALLED = ("f", {"a": "<|x|>"})
FINAL = "<|channel|>final<|message|>Yes.\n"

HARMONY = [
    Transcript("plain", "Hello <|there", "Hello <|there"),
    Transcript("to be", "to be", "to be"),
    Transcript("final", FINAL, "Yes.\n"),
    Transcript("final and its end", f"{FINAL}<|return|>", "Yes."),
    Transcript("reasoning", f"{ANALYSIS}{NEXT}{FINAL}", "Yes.\n", reasoning="Hm. <b>"),
    Transcript("call", f"{ANALYSIS}{NEXT}{CALL}<|call|>", calls=[CALLED], reasoning="Hm. <b>"),
    Transcript("call to the end", f"{ANALYSIS}{NEXT}{CALL}", calls=[CALLED], reasoning="Hm. <b>"),
    Transcript("two calls", f"{CALL}<|call|>{NEXT}{CALL}<|call|>", calls=[CALLED, CALLED]),
    Transcript(
        "recipient first",
        f'{NEXT} to=functions.f<|channel|>commentary json<|message|>{{"a": 1}}',
        calls=[("f", {"a": 1})],
    ),
    Transcript(
        "preamble",
        f"<|channel|>commentary<|message|>I look.<|end|>{NEXT}{CALL}<|call|>{NEXT}{FINAL}",
        "I look.\n\nYes.\n",
        [CALLED],
    ),
    Transcript("two analyses", f"{ANALYSIS}{NEXT}{ANALYSIS}", reasoning="Hm. <b>\n\nHm. <b>"),
    Transcript("another tool", "<|channel|>analysis to=python<|message|>1+1<|call|>", calls=[("python", "1+1")]),
    Transcript("cut in a header", f"{ANALYSIS}{NEXT}<|channel|>fin", f"{NEXT}<|channel|>fin", reasoning="Hm. <b>"),
    Transcript("cut after a message", f"{ANALYSIS}<|sta", "<|sta", reasoning="Hm. <b>"),
    Transcript("no header", f"{FINAL}<|end|>more", "Yes.more"),
    Transcript("a header without end", "<|channel|>" + "x" * 300, "<|channel|>" + "x" * 300),
]
GLM = [
    Transcript("plain", "Hello <tool> ", "Hello <tool> "),
    Transcript("one", GLM_F, calls=[TAGGED_F]),
    Transcript("two", f"So.\n{GLM_F}\n<tool_call>g</tool_call>", "So.", [TAGGED_F, ("g", {})]),
    Transcript(
        "in a line", "<tool_call>f<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>", calls=[("f", {"n": 1})]
    ),
    Transcript(
        "not a number",
        "<tool_call>f<arg_key>n</arg_key><arg_value>one</arg_value></tool_call>",
        calls=[("f", {"n": "one"})],
    ),
    Transcript(
        "a number of any size",
        "<tool_call>f<arg_key>n</arg_key><arg_value>-7e67967</arg_value></tool_call>",
        calls=[("f", {"n": -float("inf")})],
    ),
    Transcript(
        "what is no JSON",
        "<tool_call>f<arg_key>n</arg_key><arg_value>NaN</arg_value></tool_call>",
        calls=[("f", {"n": "NaN"})],
    ),
    Transcript(
        "empty text", "<tool_call>f<arg_key>s</arg_key><arg_value></arg_value></tool_call>", calls=[("f", {"s": ""})]
    ),
    Transcript(
        "text that looks like a number",
        "<tool_call>f<arg_key>s</arg_key><arg_value>12</arg_value></tool_call>",
        calls=[("f", {"s": "12"})],
    ),
    Transcript("JSON", '<tool_call>{"name": "f"}</tool_call>', '<tool_call>{"name": "f"}</tool_call>'),
    Transcript("no value", "<tool_call>f<arg_key>n</arg_key>oops</tool_call>ok", "oopsok", [("f", {})]),
    Transcript(
        "text between",
        "<tool_call>f<arg_key>n</arg_key><arg_value>1</arg_value>oops</tool_call>",
        "oops",
        [("f", {"n": 1})],
    ),
    Transcript("cut in the name", "<tool_call>get_we", "<tool_call>get_we"),
    Transcript("cut in a text", "<tool_call>f<arg_key>s</arg_key><arg_value>Par", calls=[("f", '{"s": "Par')]),
    Transcript("cut in a number", "<tool_call>f<arg_key>n</arg_key><arg_value>12</arg", calls=[("f", '{"n": 12</arg')]),
    Transcript("cut between", "<tool_call>f<arg_key>n</arg_key><arg_value>12</arg_value>", calls=[("f", '{"n": 12')]),
]
CODER = [
    Transcript("plain", "Hello <function> ", "Hello <function> "),
    Transcript("one", CODER_F, calls=[TAGGED_F]),
    Transcript("two", f"So.\n{CODER_F}\n{CODER_G}\n", "So.", [TAGGED_F, ("g.h-i", {})]),
    Transcript("without the outer markers", "<function=g>\n</function>", calls=[("g", {})]),
    Transcript("lines", "<function=f><parameter=s>\n\n  a\n\n</parameter></function>", calls=[("f", {"s": "\n  a\n"})]),
    Transcript("no function", "<tool_call>\n{}</tool_call>", "<tool_call>\n{}</tool_call>"),
    Transcript("no name", "<function=>x", "<function=>x"),
    Transcript("text between", "<function=f>oops</function>ok", "oopsok", [("f", {})]),
    Transcript(
        "a bad parameter", "<function=f><parameter=a b>1</parameter></function>", "b>1</parameter>", [("f", {})]
    ),
    Transcript("cut in a text", "<function=f>\n<parameter=s>\nPar\n", calls=[("f", '{"s": "Par\\n')]),
    Transcript("cut in the name", "<tool_call>\n<function=get", "<tool_call>\n<function=get"),
]
PYTHONIC_F = """f(a="x\\n\\"'é", b='it\\'s "so"', c=[1, -2.5e3, (True, None,)], d={"k": {}, 'l': []}, e=False)"""
CALLED_PYTHONIC = (
    "f",
    {"a": "x\n\"'é", "b": 'it\'s "so"', "c": [1, -2500.0, [True, None]], "d": {"k": {}, "l": []}, "e": False},
)
PYTHONIC = [
    Transcript("plain", "Hello [f()] ", "Hello [f()] "),
    Transcript("one", f"[{PYTHONIC_F}]", calls=[CALLED_PYTHONIC]),
    Transcript("two", f"\n[ {PYTHONIC_F} ,g.h() ]\n", calls=[CALLED_PYTHONIC, ("g.h", {})]),
    Transcript("tags", f"<|python_start|>[{PYTHONIC_F}]<|python_end|>", calls=[CALLED_PYTHONIC]),
    Transcript("text after", "[f(a=1,)] Done.", "Done.", [("f", {"a": 1})]),
    Transcript("escapes", r"[f(a='\x41\u00e9\U0001F98A\q\\\ud800\u12')]", calls=[("f", {"a": "Aé🦊\\q\\\ufffd\\u12"})]),
    Transcript("a list", "[1, 2]", "[1, 2]"),
    Transcript("names", "[f, g]", "[f, g]"),
    Transcript("a bad second", "[f(), oops]", ", oops]", [("f", {})]),
    Transcript("a variable", "[f(a=b)]", calls=[("f", '{"a": b)]')]),
    Transcript("no key", "[f(1)]", calls=[("f", '{"1": )]')]),
    Transcript(
        "deep", "[f(a=" + "[" * 33 + "1" + "]" * 33 + ")]", calls=[("f", '{"a": ' + "[" * 33 + "1" + "]" * 33 + ")]")]
    ),
    Transcript("cut in the name", "[get_we", "[get_we"),
    Transcript("cut in a text", "[f(a='Par", calls=[("f", '{"a": "Par')]),
    Transcript("cut after a call", "[f(a=1)", calls=[("f", {"a": 1})]),
]

PARSINGS = {
    "harmony": (Parsing(tool_format="harmony", reasoning_format="harmony"), HARMONY),
    "glm": (Parsing(tool_format="glm", schemas=SCHEMAS), GLM),
    "qwen3_coder": (Parsing(tool_format="qwen3_coder", schemas=SCHEMAS), CODER),
    "pythonic": (Parsing(tool_format="pythonic"), PYTHONIC),
}
CASES = [(name, each) for name, (_, transcripts) in PARSINGS.items() for each in transcripts]


@pytest.mark.parametrize(("name", "transcript"), CASES, ids=[f"{name}: {each.name}" for name, each in CASES])
def test_transcript(name: str, transcript: Transcript) -> None:
    parsing, _ = PARSINGS[name]
    check(parsing, transcript)
    check_prefixes(parsing, transcript.text)


@pytest.mark.parametrize("name", PARSINGS)
def test_reading_takes_linear_time(name: str) -> None:
    parsing, transcripts = PARSINGS[name]
    check_linear(parsing, *[each.text for each in transcripts], size=300)


def test_harmony_without_tools() -> None:
    """Nothing was offered, so nothing is a call; what the model writes is shown."""
    parsing = Parsing(reasoning_format="harmony")
    check(parsing, Transcript("call", f"{ANALYSIS}{NEXT}{CALL}", '{"a": "<|x|>"}', reasoning="Hm. <b>"))
    shown = Parsing(tool_format="harmony")
    check(shown, Transcript("reasoning is shown", f"{ANALYSIS}{NEXT}{FINAL}", "Hm. <b>\n\nYes.\n"))
