"""A model's chat template: Jinja in a sandbox, rendered as transformers' ``apply_chat_template`` renders it.

The template is the model's or the operator's, never a caller's. It still runs in Jinja's ImmutableSandboxedEnvironment
with a cap on time and size, because models come from anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

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
    ) -> None:
        """Compile ``source``. Raises ``ChatTemplateError`` where it is no valid template.

        Args:
            special_tokens: such as ``bos_token``; each is a variable of the template.
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
        self._special_tokens = dict(special_tokens or {})
        self._max_seconds = max_seconds
        self._max_characters = max_characters
        self._clock = clock
        self.variables = frozenset(names - _GIVEN - environment.globals.keys() - self._special_tokens.keys())
        """Names that ``chat_template_kwargs`` may set, because the template reads them."""

    @classmethod
    def load(
        cls, folder: Path, special_tokens: Mapping[str, Any] | None = None, override: Path | None = None
    ) -> ChatTemplate | None:
        """The model's template, or the file ``override``; None where there is none.

        Raises:
            ChatTemplateError: a template cannot be read or compiled.
        """
        source = _text_of(override) if override else _source_in(folder)
        return None if source is None else cls(source, special_tokens)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Messages → prompt.

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
        if continue_final_message:
            messages = [*messages[:-1], messages[-1] | {"content": _open_ended(messages[-1])}]
        text = self._run(
            {
                **self._special_tokens,
                **(variables or {}),
                "messages": messages,
                "tools": None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
        return _cut_at_mark(text) if continue_final_message else text

    def _run(self, context: dict[str, Any]) -> str:
        deadline = self._clock() + self._max_seconds
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(context):
                pieces.append(piece)
                length += len(piece)
                if length > self._max_characters or self._clock() > deadline:
                    raise InvalidRequest("The messages are too much for the model's chat template.", param="messages")
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


def _source_in(folder: Path) -> str | None:
    """``chat_template.jinja``, else the entry of ``tokenizer_config.json``: one template, or the default of several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _text_of(file)
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    try:
        found = msgspec.json.decode(_text_of(config)).get("chat_template")
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError) as error:
        raise ChatTemplateError(f"{config}: its chat_template cannot be read: {error}") from None
    return found if isinstance(found, str) else None


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatTemplateError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{file}: not UTF-8: {error}") from None
