"""Chat templates: the same text as transformers renders, and no harm from the ones that come from anywhere."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from gateway.chat_template import ChatTemplate, ChatTemplateError
from gateway.errors import InvalidRequest, UnsupportedParameter

TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "<ü>"}}}
CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be <kind> & brief."}, {"role": "user", "content": "Hi\n\n there "}],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1+1? "},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "tool", "content": '{"sum": 2}', "tool_call_id": "1"},
        {"role": "assistant", "content": "  2 "},
    ],
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

TEMPLATES = {
    "chatml": """\
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>assistant\\n' }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n' ~ call.function | tojson ~ '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "headers_and_trimming": """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%Y") %}{%- endif %}
{%- for message in messages %}
    {%- if message['content'] is none %}{%- continue %}{%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + eos_token }}
    {%- if loop.index > 40 %}{%- break %}{%- endif %}
{%- endfor %}
{{- date_string }}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    "trimmed_blocks": """\
    {% set ns = namespace(seen=false) %}
{% for message in messages %}
    {% if message.role == 'system' %}
System: {{ message.content | tojson(indent=2) }}
    {% else %}
        {% set ns.seen = true %}
{{ loop.index0 }} {{ message | tojson(sort_keys=true, separators=(',', ':')) }}
    {% endif %}
{% endfor %}
{% if tools is not none %}tools{% endif %}{% if documents %}documents{% endif %}
{{ ns.seen }} {{ pad_token }} {{ unknown_variable }}
""",
    "generation_marks": """\
{% for message in messages %}
{% if message.role == 'assistant' %}
{% generation %}
{{ message.content }}{{ eos_token }}
{% endgeneration %}
{% else %}
{{ message.content }}
{% endif %}
{% endfor %}
""",
    "macros": """\
{%- macro show(message) -%}[{{ message.role | upper }}] {{ message.content or '' }}{%- endmacro -%}
{%- for message in messages if message.content %}{{ show(message) }}{{ '\\n' if not loop.last }}{%- endfor -%}
""",
}


def theirs(source: str, messages, **arguments) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    ((text,), _) = render_jinja_template([messages], chat_template=source, **SPECIAL, **arguments)
    return text


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["user", "system", "tools"])
@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_text_is_the_one_that_transformers_renders(name, messages, generate):
    ours = ChatTemplate(TEMPLATES[name], SPECIAL).render(messages, add_generation_prompt=generate)
    assert ours == theirs(TEMPLATES[name], messages, add_generation_prompt=generate)


def test_variables_are_passed_on():
    template = ChatTemplate(TEMPLATES["chatml"], SPECIAL)
    assert template.variables == {"enable_thinking"}
    for thinking in (True, False):
        variables = {"enable_thinking": thinking}
        ours = template.render(CONVERSATIONS[0], variables=variables)
        assert ours == theirs(TEMPLATES["chatml"], CONVERSATIONS[0], add_generation_prompt=True, **variables)


@pytest.mark.parametrize("content", ["Sure, ", "Sure,", " Sure,  ", "a\n"])
@pytest.mark.parametrize("name", ["chatml", "headers_and_trimming"])
def test_the_last_message_is_continued_as_transformers_does(name, content):
    messages = [*CONVERSATIONS[0], {"role": "assistant", "content": content}]
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    ours = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert ours == theirs(TEMPLATES[name], messages, add_generation_prompt=False, continue_final_message=True)
    assert messages[-1]["content"] == content


def test_the_demo_models_template(demo_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_folder)
    template = ChatTemplate.load(demo_folder, {"eos_token": tokenizer.eos_token})
    assert template is not None
    for messages in CONVERSATIONS:
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert template.render(messages) == theirs


@pytest.fixture
def demo_folder() -> Path:
    import engine

    return Path(engine.__file__).parent / "demo_model"


# --- where a template comes from ----------------------------------------------------------------------------


def source_of(folder: Path, override: Path | None = None) -> str | None:
    template = ChatTemplate.load(folder, override=override)
    return None if template is None else template.source


def test_where_a_template_is_found(tmp_path):
    assert source_of(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    assert source_of(tmp_path) is None
    config.write_text(json.dumps({"chat_template": "one"}))
    assert source_of(tmp_path) == "one"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert source_of(tmp_path) == "plain"
    (tmp_path / "chat_template.jinja").write_text("file ü", encoding="utf-8")
    assert source_of(tmp_path) == "file ü"
    override = tmp_path / "mine.jinja"
    override.write_text("mine")
    assert source_of(tmp_path, override) == "mine"


def test_a_template_of_its_own_for_tools(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }} tools")
    template = ChatTemplate.load(tmp_path)
    assert not template.reads_tools and template.for_tools.reads_tools
    assert template.for_tools.render([], tools=[{}, {}]) == "2 tools"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.load(tmp_path).for_tools.source == "tools"
    alone = ChatTemplate("alone")
    assert alone.for_tools is alone


def test_tools_are_read_where_the_template_may_also_set_them():
    source = "{% if not tools is defined %}{% set tools = none %}{% endif %}{% if tools %}{{ tools }}{% endif %}"
    template = ChatTemplate(source)
    assert template.reads_tools
    assert template.render([], tools=[]) == ""
    assert not ChatTemplate("{% set tools = 1 %}{{ tools }}{{ messages }}").reads_tools


CALLING = "{% for m in messages %}{% for c in m.tool_calls or [] %}%s{% endfor %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    "shown",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ '' + c.function.arguments }}",
        "{{ c.function.arguments }}",
        "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}",
        "{% if c.id | length < 9 %}{{ raise_exception('id') }}{% endif %}{{ '' + c.function.arguments }}",
    ],
)
def test_arguments_show_as_json_however_a_template_wants_them(shown):
    call = {"id": "123456789", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "ü'"}}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert ChatTemplate(CALLING.replace("%s", shown)).render(messages) == '{"a": 1, "b": "ü\'"}'


@pytest.mark.parametrize("config", ["{", "[]", '{"chat_template": [{"name": "default"}]}'])
def test_a_broken_config_is_told(tmp_path, config):
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ChatTemplateError, match=r"tokenizer_config\.json"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize("source", ["{% if %}", "{{", "{% for %}", "{{ x | nosuchfilter }}", "{% generation %}"])
def test_a_mistake_in_a_template_is_told(source):
    with pytest.raises(ChatTemplateError, match="mistake in line 1"):
        ChatTemplate(source)


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "bad.jinja").write_bytes(b"\xff")
    for file in (tmp_path / "bad.jinja", tmp_path / "none.jinja"):
        with pytest.raises(ChatTemplateError, match=file.name):
            ChatTemplate.load(tmp_path, override=file)


# --- what a template may not do -----------------------------------------------------------------------------

HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{% for n in range(1000000) %}{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ messages[3].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ messages | tojson(indent=none, nosuch=1) }}",
        "{% include 'other' %}",
    ],
)
def test_what_goes_wrong_in_a_template_is_a_400(source):
    messages = [dict(HI[0])]
    try:
        text = ChatTemplate(source).render(messages)
    except InvalidRequest as error:
        assert error.param == "messages"
    else:
        assert "class" not in text
        assert "subclass" not in text
    assert messages == HI


def test_a_template_says_what_it_does_not_like():
    template = ChatTemplate("{{ raise_exception('no ' + messages[0].role) }}")
    with pytest.raises(InvalidRequest) as caught:
        template.render(HI)
    assert caught.value.message == "The model's chat template refuses these messages: no user"
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", []),
        ("{% for m in messages %}{{ m['name'] }}: {{ m.content }}\n{% endfor %}", [*["name", "name", "name", "name"]]),
        ("{% for m in messages %}{{ m.name if m.role == 'tool' }}{{ m.reasoning_content }}{% endfor %}", ["name", "r"]),
        ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", list("nnnnr")),
    ],
)
def test_which_members_of_messages_a_template_shows(source, shown):
    template = ChatTemplate(source)
    asked = [(role, "name") for role in ("system", "user", "assistant", "tool")] + [("assistant", "reasoning_content")]
    found = [member for role, member in asked if template.shows(role, member)]
    assert [each[0] for each in found] == [each[0] for each in shown]


def test_time_is_bounded():
    ticks = iter(range(10_000))
    template = ChatTemplate("{% for n in range(9000) %}x{% endfor %}", max_seconds=5, clock=lambda: next(ticks))
    with pytest.raises(InvalidRequest, match=r"5 s .*--template-timeout"):
        template.render(HI)
    assert next(ticks) < 10


def test_size_is_bounded():
    template = ChatTemplate("{% for n in range(9000) %}{{ 'x' * 100 }}{% endfor %}", max_characters=1000)
    with pytest.raises(InvalidRequest, match=r"1000 .*--max-rendered-length"):
        template.render(HI)


def test_only_variables_that_the_template_reads_may_be_set():
    template = ChatTemplate("{{ bos_token }}{{ messages }}{{ tools }}{{ a }}{% set b = 1 %}{{ b }}{{ namespace() }}")
    assert template.variables == {"a"}
    for name in ("messages", "tools", "bos_token", "b", "namespace", "raise_exception", "x" * 1000):
        with pytest.raises(UnsupportedParameter) as caught:
            template.render(HI, variables={name: 1})
        assert caught.value.param == f"chat_template_kwargs.{name[:64]}"
        assert len(caught.value.message) < 300


def test_the_date_is_the_clocks():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 1, 31))
    assert template.render(HI) == "31 Jan 2026"


def test_continuing_needs_a_message_that_the_template_shows():
    template = ChatTemplate("{{ messages[0].content }}")
    two = [*HI, {"role": "assistant", "content": "Sure"}]
    for messages in (two, [*HI, {"role": "assistant", "content": None}]):
        with pytest.raises(InvalidRequest) as caught:
            template.render(messages, continue_final_message=True)
        assert caught.value.param == "continue_final_message"
