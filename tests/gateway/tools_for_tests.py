"""A server whose model is shown tools, and what it was shown."""

from __future__ import annotations

from typing import Any

from http_for_tests import serving
from tokenizers_for_tests import byte_level

from gateway.chat_template import ChatTemplate
from gateway.prompt import Prompts

TEMPLATE = """\
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for message in messages -%}<s>{{ message.role }}: {{ message.content }}</s>{%- endfor -%}
{%- if add_generation_prompt -%}<s>assistant: {% if think %}<think>{% endif %}{%- endif -%}
"""
BRIEF = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{{ messages[0].content }}"
FUNCTION = {"name": "f", "description": "F", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def with_tools(**changes: Any) -> Any:
    template = ChatTemplate(changes.pop("template", TEMPLATE))
    return serving(prompts=Prompts(byte_level(), template), **{"tool_format": "hermes", **changes})


def prompt_of(server: Any) -> str:
    return byte_level().decode(server.lifecycle.last.prompts[0], skip_special_tokens=False)
