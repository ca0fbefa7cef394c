"""The chat format: the Jinja template that ships with the model, and the same rendering in plain Python for training.

ChatML turns; tools as JSON lines in the system turn and calls as `<tool_call>` JSON, the format that the Hermes
and Qwen model families made common. `tests/demo` holds the two renderings equal.
"""

from __future__ import annotations

import json
from typing import Any

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CALL, CALL_END = "<tool_call>", "</tool_call>"

TOOLS_BEFORE = "# Tools\n<tools>\n"
TOOLS_AFTER = '</tools>\nTo call a tool, answer:\n<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
    {%- if content is string -%}{{- content -}}
    {%- elif content is iterable and content is not mapping -%}
        {%- for part in content -%}{%- if part.text is defined -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(turns=messages, system='') -%}
{%- if messages and messages[0].role in ('system', 'developer') -%}
    {%- set ns.system = text(messages[0].content) -%}
    {%- set ns.turns = messages[1:] -%}
{%- endif -%}
{%- if tools or ns.system -%}
    {{- '<|im_start|>system\\n' + ns.system -}}
    {%- if tools -%}
        {{- ('\\n\\n' if ns.system else '') + '# Tools\\n<tools>\\n' -}}
        {%- for tool in tools -%}{{- (tool | tojson) + '\\n' -}}{%- endfor -%}
        {{- '</tools>\\nTo call a tool, answer:\\n' -}}
        {{- '<tool_call>\\n{"name": <name>, "arguments": <arguments>}\\n</tool_call>' -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in ns.turns -%}
    {%- set role = 'system' if message.role == 'developer' else message.role -%}
    {{- '<|im_start|>' + role + '\\n' + text(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
        {%- set function = call.function if call.function is defined else call -%}
        {%- set before = '\\n' if (not loop.first or text(message.content)) else '' -%}
        {{- before + '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' -}}
        {%- set arguments = function.arguments -%}
        {{- arguments if arguments is string else arguments | tojson -}}
        {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def _turn(message: dict[str, Any]) -> str:
    text = message.get("content") or ""
    for call in message.get("tool_calls") or []:
        function = call["function"]
        arguments = function["arguments"]
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        before = "\n" if text else ""
        text += f'{before}{CALL}\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n{CALL_END}'
    return f"{START}{message['role']}\n{text}{END}\n"


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, generate: bool = False) -> str:
    """The template in Python: about fifty times faster than Jinja, for training."""
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    out = ""
    if tools or system:
        out = f"{START}system\n{system}"
        if tools:
            listed = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in tools)
            out += ("\n\n" if system else "") + TOOLS_BEFORE + listed + TOOLS_AFTER
        out += f"{END}\n"
    return out + "".join(_turn(m) for m in messages) + (f"{START}assistant\n" if generate else "")
