"""The conversation in the terminal: what is sent, what is shown, and what each command does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.terminal.chat import Chat, Conversation
from gateway.terminal.client import Server
from gateway.terminal.errors import ServerError


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if "usage" in more else [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return b"data: " + json.dumps({"choices": choices} | more).encode() + b"\n\n"


def saying(*texts: str, finish: str = "stop") -> bytes:
    parts = b"".join(b": keep-alive\n\n" + event({"content": text}) for text in texts)
    return parts + event(finish=finish) + event(usage={"completion_tokens": len(texts)}) + b"data: [DONE]\n\n"


class Script:
    """Answers one request after the other, and keeps what it was asked."""

    def __init__(self, *answers: bytes | httpx.Response) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, content=answer)

    def messages(self, at: int) -> list[tuple[str, str]]:
        return [(each["role"], each["content"]) for each in json.loads(self.asked[at].content)["messages"]]


class Terminal:
    """What a user types, and what is written."""

    def __init__(self, script: Script, *lines: str | BaseException) -> None:
        self.lines = iter(lines)
        self.prompts: list[str] = []
        self.shown, self.notes = "", []
        self.conversation = Conversation("demo")
        server = Server("http://server", "sk-1", transport=httpx.MockTransport(script))
        Chat(server, self.conversation, read=self.read, write=self.write, note=self.notes.append).run()

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = next(self.lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    def write(self, text: str) -> None:
        self.shown += text


def test_a_conversation_is_sent_along_and_answers_are_shown() -> None:
    script = Script(saying("Hello", " Ada."), saying("Ada."))
    terminal = Terminal(script, "I am Ada.", "", "Who am I?")
    assert terminal.shown == "Hello Ada.\nAda.\n\n"
    assert script.messages(1) == [("user", "I am Ada."), ("assistant", "Hello Ada."), ("user", "Who am I?")]
    assert script.asked[0].headers["authorization"] == "Bearer sk-1"
    body = json.loads(script.asked[0].content)
    assert (body["model"], body["stream"]) == ("demo", True)
    assert "2 tokens" in terminal.notes[0] and "first token" in terminal.notes[0]


def test_several_lines_make_one_message() -> None:
    script = Script(saying("1"), saying("2"))
    terminal = Terminal(script, "one\\", "two", '"""', "three", "", "four", '"""')
    assert script.messages(0)[-1] == ("user", "one\ntwo")
    assert script.messages(1)[-1] == ("user", "three\n\nfour")
    assert terminal.prompts[:2] == ["> ", "… "]


def test_a_model_cannot_drive_the_terminal() -> None:
    terminal = Terminal(Script(saying("\x1b]0;owned\x07\x1b[2J", "ok\r\x9b31m\u202e\ttab")), "Attack")
    assert not {*"\x1b\x07\r\x9b\u202e"} & {*terminal.shown}
    assert "␛[2J" in terminal.shown and "\ttab" in terminal.shown


def test_commands(tmp_path: Path) -> None:
    script = Script(saying("A"), saying("B"), saying("C"))
    file = tmp_path / "kept.json"
    lines = ["/system Be brief.", "/set temperature 0.2", "/set stop END", "/set stop", "Q", "/retry", f"/save {file}"]
    lines += ["/undo", "/show", "/undo", f"/load {file}", "/show", "R", "/new", "/set", "/nonsense", "/help", "/exit"]
    terminal = Terminal(script, *lines, "never read")
    first, last = json.loads(script.asked[0].content), script.messages(2)
    assert (first["temperature"], "stop" in first) == (0.2, False)
    assert script.messages(0) == script.messages(1) == [("system", "Be brief."), ("user", "Q")]
    assert last == [("system", "Be brief."), ("user", "Q"), ("assistant", "B"), ("user", "R")]
    assert terminal.conversation.messages == []
    for note in ("error: there is no question yet", "assistant: B", "temperature 0.2", "stop is left to the server"):
        assert note in terminal.notes
    assert "error: there is no /nonsense; /help lists what there is" in terminal.notes
    assert next(terminal.lines) == "never read"


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("/save", "error: /save needs the name of a file"),
        ("/load /nowhere/x", "error: /nowhere/x: No such file or directory"),
        ("/save /nowhere/x", "error: /nowhere/x: No such file or directory"),
        ("/set messages []", "error: messages cannot be set here"),
    ],
)
def test_mistakes_are_one_line(line: str, note: str) -> None:
    assert Terminal(Script(), line).notes == [note]


def test_a_file_without_a_conversation_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"messages": [{"role": "user"}], "fields": {}, "system": ""}')
    terminal = Terminal(Script(saying("A")), "Q", f"/load {file}")
    assert terminal.notes[-1] == f"error: {file} holds no conversation"
    assert len(terminal.conversation.messages) == 2


def test_a_refusal_is_a_line_and_the_question_is_taken_back() -> None:
    refused = httpx.Response(400, json={"error": {"message": "'stopp' is unknown.\nDid you mean 'stop'?"}})
    script = Script(refused, saying("Yes."))
    terminal = Terminal(script, "One?", "Two?")
    assert terminal.notes[0] == "error: 'stopp' is unknown. Did you mean 'stop'?"
    assert script.messages(1) == [("user", "Two?")]


def stopped(part: str) -> Iterator[bytes]:
    yield event({"content": part})
    raise KeyboardInterrupt


def test_ctrl_c_ends_an_answer_at_the_server_and_keeps_what_came() -> None:
    answer = httpx.Response(200, headers={"x-penstock-stream": "s-1"}, content=stopped("Half an"))
    script = Script(answer, httpx.Response(204), saying("Whole."))
    terminal = Terminal(script, "Go", KeyboardInterrupt(), "Again")
    assert (script.asked[1].method, script.asked[1].url.path) == ("DELETE", "/v1/streams/s-1")
    assert terminal.notes[0] == "stopped" and "Ctrl-D" in terminal.notes[1]
    assert terminal.shown == "Half an\nWhole.\n\n"
    assert script.messages(2)[1] == ("assistant", "Half an")


def broken(*events: bytes) -> Iterator[bytes]:
    yield from events
    raise httpx.ReadError("gone")


def test_a_broken_connection_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.terminal.client._FIRST_PAUSE", 0.001)
    headers = {"x-penstock-stream": "s-1"}
    script = Script(
        httpx.Response(200, headers=headers, content=broken(b"id: 1\n" + event({"content": "One "}))),
        httpx.Response(503, json={"error": {"message": "starting"}}),
        httpx.Response(200, headers=headers, content=b"id: 2\n" + event({"content": "two "})),
        httpx.Response(200, headers=headers, content=saying("three.")),
    )
    terminal = Terminal(script, "Count")
    assert terminal.conversation.messages[-1]["content"] == "One two three."
    assert [request.headers.get("last-event-id") for request in script.asked] == [None, "1", "1", "2"]
    assert script.asked[1].url.path == "/v1/streams/s-1"


def test_a_connection_that_cannot_be_gone_on_with_is_told() -> None:
    script = Script(httpx.Response(200, content=broken(event({"content": "One "}))))
    assert Terminal(script, "Count").notes == ["error: the connection was lost in the middle of the answer"]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://[", "x"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(ServerError, match="is no address"):
        Server(url, None)
