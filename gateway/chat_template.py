"""A model's chat template: Jinja in a sandbox, rendered as transformers' ``apply_chat_template`` renders it.

The template is the model's or the operator's, never a caller's. It still runs in Jinja's ImmutableSandboxedEnvironment
with a cap on time and size, because models come from anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypedDict, Unpack

import msgspec
from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import InvalidRequest, UnsupportedParameter

_CONTINUE_HERE = "PENSTOCK_CONTINUES_HERE "
"""Marks where the last message ends. The space tells whether the template keeps trailing spaces."""

_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"})
"""Variables that the server sets; all others that a template reads may come from ``chat_template_kwargs``."""


_MARK = "PENSTOCK-IS-SHOWN"
_CALL: dict[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "f", "arguments": {"penstock_key": "penstock value"}},
}
_TRIED: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
]
"""A conversation by which it is found out what a template does."""

DEFAULT, FOR_TOOLS = "default", "tool_use"
"""Names of a model's templates; models that have one have it under the first."""


class RenderLimits(TypedDict, total=False):
    """Of one rendering."""

    max_seconds: float
    max_characters: int


class ChatTemplateError(Exception):
    """A template that cannot be used; readable by the person at the terminal."""


class _GenerationTag(Extension):
    """``{% generation %} … {% endgeneration %}`` marks the assistant's words for training; it prints its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _RaisedError(TemplateError):
    """The template's own ``raise_exception``: its author says what is wrong with the messages."""


def _raise_exception(message: str) -> NoReturn:
    raise _RaisedError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the HTML escapes of Jinja's own filter, as templates for models expect."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


class ChatTemplate:
    """A compiled template. Rendering is thread-safe."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, Any] | None = None,
        *,
        max_seconds: float = 2.0,
        max_characters: int = 2**25,
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.monotonic,
        for_tools: ChatTemplate | None = None,
    ) -> None:
        """Compile ``source``. Raises ``ChatTemplateError`` where it is no valid template.

        Args:
            special_tokens: such as ``bos_token``; each is a variable of the template.
            for_tools: another template of the model, to be taken where tools are offered.
            max_seconds: longest time that one rendering may take.
            max_characters: longest result.
        """
        environment = _environment(now)
        try:
            self._template = environment.from_string(source)
            names = meta.find_undeclared_variables(environment.parse(source))
        except TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"the chat template has a mistake in line {error.lineno}: {error.message}"
            ) from None
        self.source = source
        self.for_tools = self if for_tools is None else for_tools
        self._special_tokens = dict(special_tokens or {})
        self._max_seconds = max_seconds
        self._max_characters = max_characters
        self._clock = clock
        self.reads_tools = "tools" in names
        self._shown: dict[tuple[str, str], bool] = {}
        self.variables = frozenset(names - _GIVEN - environment.globals.keys() - self._special_tokens.keys())
        """Names that ``chat_template_kwargs`` may set, because the template reads them."""

    @classmethod
    def load(
        cls,
        folder: Path,
        special_tokens: Mapping[str, Any] | None = None,
        override: Path | None = None,
        **limits: Unpack[RenderLimits],
    ) -> ChatTemplate | None:
        """The model's template, or the file ``override``; None where there is none.

        Raises:
            ChatTemplateError: a template cannot be read or compiled.
        """
        if override is not None:
            return cls(_text_of(override), special_tokens, **limits)
        sources = _sources_in(folder)
        if DEFAULT not in sources:
            return None
        for_tools = cls(sources[FOR_TOOLS], special_tokens, **limits) if FOR_TOOLS in sources else None
        return cls(sources[DEFAULT], special_tokens, for_tools=for_tools, **limits)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Messages → prompt. Arguments of tool calls are objects; a template that joins them as text is given text.

        Raises:
            InvalidRequest: the template refuses these messages, or their prompt grows too long.
            UnsupportedParameter: ``variables`` holds a name that the template does not read.
        """
        for name in variables or {}:
            if name not in self.variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise UnsupportedParameter(
                    f"'chat_template_kwargs.{name[:64]}' is not supported: the model's chat template does not read it "
                    f"(it reads: {known}).",
                    param=f"chat_template_kwargs.{name[:64]}",
                )
        if any(message.get("tool_calls") for message in messages) and self._wants_text:
            messages = [_with_text_arguments(message) for message in messages]
        if continue_final_message:
            messages = [*messages[:-1], messages[-1] | {"content": _open_ended(messages[-1])}]
        text = self._run(
            {
                **self._special_tokens,
                **(variables or {}),
                "messages": messages,
                "tools": tools or None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
        return _cut_at_mark(text) if continue_final_message else text

    def shows(self, role: str, member: str) -> bool:
        """Whether a message of that role shows what it has in that member; also where that cannot be found out."""
        if (role, member) not in self._shown:
            message: dict[str, Any] = {"role": role, "content": "Hi", member: _MARK}
            message |= {"tool_call_id": "call00001"} if role == "tool" else {}
            before = {"assistant": _TRIED[:1], "tool": _TRIED}.get(role, [])
            after = _TRIED[:1] if role == "system" else []
            try:
                shown = _MARK in self.render([*before, message, *after], add_generation_prompt=False)
            except InvalidRequest:
                shown = True
            self._shown[role, member] = shown
        return self._shown[role, member]

    @cached_property
    def _wants_text(self) -> bool:
        """Whether it takes a call's arguments as JSON text, and fails on an object or prints it as Python does."""
        key, value = next(iter(_CALL["function"]["arguments"].items()))
        messages = [*_TRIED, {"role": "tool", "content": "1", "tool_call_id": "call00001", "name": "f"}]

        def shows(messages: list[dict[str, Any]]) -> bool:
            try:
                text = self._run({**self._special_tokens, "messages": messages, "tools": None, "documents": None})
            except InvalidRequest:
                return False
            return value in text and f"'{key}'" not in text

        return not shows(messages) and shows([_with_text_arguments(message) for message in messages])

    def _run(self, context: dict[str, Any]) -> str:
        deadline = self._clock() + self._max_seconds
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(context):
                pieces.append(piece)
                length += len(piece)
                if length > self._max_characters:
                    raise _too_much(
                        f"makes more than {self._max_characters} characters of them (--max-rendered-length)"
                    )
                if self._clock() > deadline:
                    raise _too_much(f"takes more than {self._max_seconds:g} s for them (--template-timeout)")
        except _RaisedError as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error.message}", param="messages"
            ) from None
        except InvalidRequest:
            raise
        except Exception as error:
            # Templates index, add and compare what messages hold; any of it can fail on a message of another shape.
            raise InvalidRequest(
                f"The model's chat template cannot render these messages: {type(error).__name__}: {error}"[:300],
                param="messages",
            ) from None
        return "".join(pieces)


def _too_much(what: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'messages': the model's chat template {what}.", param="messages")


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        call | {"function": call["function"] | {"arguments": _tojson(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or []
    ]
    return message | {"tool_calls": calls} if calls else message


def _open_ended(message: Mapping[str, Any]) -> str:
    if not message.get("content"):
        raise InvalidRequest(
            "'continue_final_message' needs a last message with text to continue.",
            param="continue_final_message",
            code="invalid_value",
        )
    return f"{message['content']}{_CONTINUE_HERE}"


def _cut_at_mark(text: str) -> str:
    at = text.rfind(_CONTINUE_HERE.strip())
    if at < 0:
        raise InvalidRequest(
            "'continue_final_message' is not possible: the model's chat template leaves the last message out.",
            param="continue_final_message",
            code="invalid_value",
        )
    # A template that trims messages has trimmed the mark's space, and would have trimmed spaces before it.
    return text[:at] if text.startswith(_CONTINUE_HERE, at) else text[:at].rstrip()


def _sources_in(folder: Path) -> dict[str, str]:
    """Name → template: ``chat_template.jinja`` and its additions, else what ``tokenizer_config.json`` holds."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        return {DEFAULT: _text_of(file)} | {each.stem: _text_of(each) for each in more}
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return {}
    try:
        found = msgspec.json.decode(_text_of(config)).get("chat_template")
        named = {entry["name"]: entry["template"] for entry in found} if isinstance(found, list) else {DEFAULT: found}
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError) as error:
        raise ChatTemplateError(f"{config}: its chat_template cannot be read: {error}") from None
    return {name: source for name, source in named.items() if isinstance(source, str)}


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatTemplateError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{file}: not UTF-8: {error}") from None
