"""Which format a model is taken to write, from what chat templates say."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.demo_model import PATH
from gateway.completion.formats import (
    choose_reasoning_format,
    choose_tool_format,
    reasoning_formats,
    tool_formats,
)

TELLING = {
    # What is telling in the chat templates of these families: (tools, reasoning).
    "return a json object with function name and arguments within <tool_call></tool_call> XML tags": ("hermes", None),
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n<tool_call> <think>\n</think>': (
        "hermes",
        "think",
    ),
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>": ("qwen3_coder", None),
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key> </think>": ("glm", "think"),
    "'[TOOL_CALLS] [' [AVAILABLE_TOOLS]": ("mistral", None),
    "[TOOL_CALLS][ARGS] [THINK][/THINK]": ("mistral", "mistral"),
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜> <｜Assistant｜></think>": ("deepseek", "think"),
    "functools[{...}] <|tool|>": ("phi", None),
    "<|start_of_role|>available_tools<|end_of_role|> followed by <|tool_call|> Here is my thought process: ": (
        "granite",
        "granite",
    ),
    "<|start|>assistant<|channel|>analysis<|message|>": ("harmony", "harmony"),
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.': (
        "llama3_json",
        None,
    ),
    "Respond in the format [func_name1(params_name1=params_value1, func_name2(params)] ": ("pythonic", None),
    "{{ messages[0].content }}": (None, None),
}


@pytest.mark.parametrize(("template", "expected"), TELLING.items())
def test_the_template_tells_it_and_no_other(template: str, expected: tuple[str | None, str | None]) -> None:
    assert (choose_tool_format("auto", template), choose_reasoning_format("auto", template)) == expected
    assert sum(each.detect(template) for each in tool_formats().values()) == (expected[0] is not None)
    assert sum(each.detect(template) for each in reasoning_formats().values()) == (expected[1] is not None)


def test_every_format_is_told_by_some_template() -> None:
    assert {tools for tools, _ in TELLING.values()} - {None} == tool_formats().keys()
    assert {reasoning for _, reasoning in TELLING.values()} - {None} == reasoning_formats().keys()


def test_the_demo_model() -> None:
    template = (PATH / "chat_template.jinja").read_text()
    assert choose_tool_format("auto", template) == "hermes"
    assert choose_reasoning_format("auto", template) is None


def test_a_name_is_taken_at_its_word() -> None:
    assert choose_tool_format("phi", None) == "phi"
    assert choose_tool_format("none", "<tool_call>") is None
    assert choose_tool_format("auto", None) is None
    assert choose_reasoning_format("think", "") == "think"


def test_every_format_is_documented() -> None:
    page = (Path(__file__).parents[4] / "docs" / "tools.md").read_text(encoding="utf-8")
    for formats in (tool_formats(), reasoning_formats()):
        for name, each in formats.items():
            assert f"| `{name}` | {each.models} |" in page, f"docs/tools.md has no row for {name}"
