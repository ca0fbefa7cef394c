"""``penstock chat``: a conversation in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.terminal.client import Answer, Server
from gateway.terminal.errors import ServerError
from gateway.terminal.text import harmless

HELP = """\
/help               this
/new                begin a new conversation
/retry              ask for the last answer again
/undo               take back the last question and its answer
/system [TEXT]      set the system prompt; without TEXT, take it away
/set [NAME VALUE]   set a field of the requests, such as temperature 0.2 or seed 7; without VALUE, take it away;
                    without NAME, show them
/show               the conversation so far
/save FILE          write it to a file, as JSON
/load FILE          go on with one
/exit               leave (so does Ctrl-D)

A line that ends in a backslash goes on in the next one; so does all between a line of three quotes and the next.
Ctrl-C ends an answer."""
QUOTES = '"""'


class CommandError(Exception):
    """A slash command that cannot be done, in one line."""


@dataclass
class Conversation:
    """What is sent: messages, and further fields of a request."""

    model: str
    fields: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, **self.fields, "messages": [*system, *self.messages]}

    def undo(self) -> str:
        """Take back the last question; gives it. Raises ``CommandError`` where there is none."""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        raise CommandError("there is no question yet")

    def save(self, path: Path) -> None:
        """Raises ``CommandError``."""
        kept = {"system": self.system, "fields": self.fields, "messages": self.messages}
        try:
            path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Raises ``CommandError``, and changes nothing, where the file holds no conversation."""
        try:
            kept = json.loads(path.read_text())
            messages = [{"role": str(each["role"]), "content": str(each["content"])} for each in kept["messages"]]
            fields, system = dict(kept["fields"]), str(kept["system"])
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{path} holds no conversation") from error
        self.messages, self.fields, self.system = messages, fields, system


class Chat:
    """Reads questions with ``read``, which raises EOFError at the end, and writes answers with ``write``."""

    def __init__(
        self,
        server: Server,
        conversation: Conversation,
        *,
        read: Callable[[str], str],
        write: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        """``note`` writes a line that is no part of the conversation."""
        self._server = server
        self._conversation = conversation
        self._read = read
        self._write = write
        self._note = note
        self._last_shown = "\n"

    def run(self) -> None:
        """Until the user leaves. What goes wrong is a line, and the conversation goes on."""
        while True:
            try:
                text = self._question()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._note("\n(Ctrl-D leaves)")
                continue
            try:
                if text.startswith("/"):
                    if self._command(text) == "exit":
                        return
                elif text:
                    self.ask(text)
            except (CommandError, ServerError) as error:
                self._note(f"error: {error}")

    def ask(self, question: str) -> None:
        """One question and its answer. Where there is none, the question is taken back. Raises ``ServerError``."""
        messages = self._conversation.messages
        messages.append({"role": "user", "content": question})
        try:
            answer, figures = self._answered()
        except ServerError:
            messages.pop()
            raise
        if answer.text:
            messages.append({"role": "assistant", "content": answer.text})
        else:
            messages.pop()
        self._note(figures)

    def _answered(self) -> tuple[Answer, str]:
        """An answer and the line under it; one that was stopped too."""
        try:
            answer = self._server.chat(self._conversation.body(), self._show, self._pausing)
            figures = answer.figures
        except KeyboardInterrupt as interrupt:
            answer, figures = interrupt.args[0], "stopped"
        finally:
            if not self._last_shown.endswith("\n"):
                self._show("\n")
        return answer, figures

    def _show(self, text: str) -> None:
        self._last_shown = text
        self._write(harmless(text))

    def _pausing(self) -> None:
        if not self._last_shown.endswith("\n"):
            self._show("\n")
        self._note("the connection was lost; going on as soon as the server is back …")

    def _question(self) -> str:
        line = self._read("> ")
        if line.strip() == QUOTES:
            lines = []
            while (line := self._read("… ")).strip() != QUOTES:
                lines.append(line)
            return "\n".join(lines)
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self._read("… ")
        return "\n".join([*lines, line]).strip()

    def _command(self, text: str) -> str | None:
        """Raises ``CommandError`` for one that there is not."""
        name, _, rest = text[1:].partition(" ")
        rest = rest.strip()
        match name:
            case "exit" | "quit":
                return "exit"
            case "help":
                self._note(HELP)
            case "new":
                self._conversation.messages.clear()
                self._note("a new conversation")
            case "retry":
                self.ask(self._conversation.undo())
            case "undo":
                self._note(f"taken back: {self._conversation.undo()}")
            case "system":
                self._conversation.system = rest
                self._note("the system prompt is set" if rest else "no system prompt")
            case "set":
                self._set(rest)
            case "show":
                for message in self._conversation.messages:
                    self._note(f"{message['role']}: {harmless(message['content'])}")
            case "save" | "load":
                if not rest:
                    raise CommandError(f"/{name} needs the name of a file")
                path = Path(rest).expanduser()
                (self._conversation.save if name == "save" else self._conversation.load)(path)
                self._note(f"{'written to' if name == 'save' else 'loaded from'} {rest}")
            case _:
                raise CommandError(f"there is no /{name}; /help lists what there is")
        return None

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not name:
            shown = [f"{each} {json.dumps(what)}" for each, what in self._conversation.fields.items()]
            self._note("\n".join(shown) or "no field is set")
        elif not value.strip():
            self._conversation.fields.pop(name, None)
            self._note(f"{name} is left to the server")
        elif name in ("messages", "model", "stream", "stream_options", "n"):
            raise CommandError(f"{name} cannot be set here")
        else:
            self._conversation.fields[name] = as_value(value.strip())
            self._note(f"{name} is {json.dumps(self._conversation.fields[name])}")


def as_value(text: str) -> Any:
    """JSON where it is some, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(server: Server, model: str | None, system: str, fields: dict[str, Any], message: str | None) -> int:
    """The command. With a ``message``, or without a terminal to read from, one answer and no more."""
    conversation = Conversation(model or server.models()[0], fields, system)
    interactive = message is None and sys.stdin.isatty()
    chat = Chat(server, conversation, read=_reader() if interactive else input, write=_write, note=_noter())
    if interactive:
        print(f"{conversation.model} at {server.url}. /help lists commands, Ctrl-D leaves.", file=sys.stderr)
        chat.run()
        return 0
    question = sys.stdin.read() if message is None else message
    if not question.strip():
        raise ServerError("there is no message to send")
    chat.ask(question)
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _noter() -> Callable[[str], None]:
    """Notes go to standard error, faint where that is a terminal, so that standard output holds answers alone."""
    faint, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    return lambda text: print(f"{faint}{text}{plain}", file=sys.stderr, flush=True)


def _reader() -> Callable[[str], str]:
    """``input`` with line editing and the history of this run, which is written nowhere."""
    import readline

    readline.parse_and_bind("set enable-bracketed-paste on")
    readline.set_auto_history(True)
    return input
