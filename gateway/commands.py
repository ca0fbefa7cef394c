"""The subcommands of ``penstock``. The flags of ``serve`` are made from the fields of :class:`ServeSettings`.

Nothing heavy is imported here: ``penstock --help`` answers at once, and the server is imported by ``serve`` alone.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import typer

from gateway.cli_help import SUMMARY, PenstockGroup, ServeCommand, flags_of, metavar, switch_of
from gateway.handover.predecessor import Predecessor
from gateway.head_start import HeadStart
from gateway.settings import ServeSettings, SettingsError, unknown_variables, variable_of
from gateway.terminal.errors import ServerError
from gateway.version import VERSION

_COMPLETING = "_PENSTOCK_COMPLETE"
"""Variable in which a shell asks what a line can go on with."""

FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130

T = TypeVar("T")

app = typer.Typer(
    name="penstock",
    cls=PenstockGroup,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Shell(StrEnum):
    """Those that completion scripts are printed for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@dataclass(frozen=True, slots=True)
class Origin:
    """How this process came to be."""

    head_start: HeadStart | None
    predecessor: Predecessor | None


@app.callback(invoke_without_command=True)
def _penstock(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(VERSION)
        raise typer.Exit


def serve(context: typer.Context, **given: Any) -> int:
    """Start the server; ``given`` holds every flag, None or empty where it did not stand on the command line."""
    flags = _stood(given)
    for warning in unknown_variables(os.environ):
        _say(f"warning: {warning}")
    settings = ServeSettings.load(flags, os.environ)

    from gateway import server

    origin: Origin = context.obj
    return server.run(settings, origin.head_start, origin.predecessor)


def _stood(given: dict[str, Any]) -> dict[str, Any]:
    """Only what stood on the command line."""
    return {name: value for name, value in given.items() if value is not None and value not in ([], ())}


def _serve_parameters() -> list[inspect.Parameter]:
    """One parameter for each setting: what typer reads the flags from.

    Values stay strings here (but for switches), so that all three sources are parsed and judged in one place.
    """
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name in ServeSettings.model_fields
        for annotation, default in [_typer_parameter(name)]
    ]


def _typer_parameter(name: str) -> tuple[Any, Any]:
    field = ServeSettings.model_fields[name]
    if name == "model":
        return str | None, typer.Argument(None, metavar="MODEL", help=field.description)
    if field.annotation is bool:
        return bool | None, typer.Option(None, switch_of(name), help=field.description)
    kind = list[str] | None if get_origin(field.annotation) is tuple else str | None
    return kind, typer.Option(None, *flags_of(name), metavar=metavar(name), help=field.description)


# typer reads a function's flags from its signature and its annotations.
_context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
serve.__dict__["__signature__"] = inspect.Signature([_context, *_serve_parameters()])
serve.__annotations__ = {each.name: each.annotation for each in (_context, *_serve_parameters())}
app.command("serve", cls=ServeCommand, help=SUMMARY)(serve)


@app.command("hash-key")
def hash_key(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Who the key is for: the tenant's name in metrics and logs.")
    ],
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Hash this key rather than a new one; - reads it from standard input."),
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(min=1, metavar="COUNT", help="Most requests of this key at a time.")
    ] = None,
) -> int:
    """Print an entry for the file of --api-keys.

    A new random key is made and shown once, on standard error; the file holds only its hash.
    """
    from gateway import keys_cli

    return keys_cli.hash_key(name, key, max_concurrency)


@app.command("upgrade")
def upgrade(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- OPTIONS]", help="Of penstock serve: they replace those that the server was started with."
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, metavar="PORT", envvar=variable_of("port"), help="Of the running server."),
    ] = ServeSettings.model_fields["port"].default,
    control: Annotated[
        Path | None,
        typer.Option(metavar="PATH", envvar=variable_of("control"), help="The server's --control, where it has one."),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", metavar="", help="End the old engines before the new ones load; connections wait."),
    ] = False,
) -> int:
    """Replace the running server by a new process, which takes over its listening socket: no connection is refused.

    The new process has the old one's environment and options, and is of the release that this command belongs to. It
    loads the model first; the old one then ends what it has begun. Should the new one fail, the old one goes on.
    """
    from gateway.handover import command
    from gateway.handover.control import candidates

    places = [control] if control is not None else candidates(port, os.environ)
    try:
        command.upgrade(places, overrides or [], in_place=in_place, parse=_parse, say=_say)
    except command.NoServerError as error:
        _say(f"error: {error}")
        return FAILURE
    except KeyboardInterrupt:
        _say("called off: the server goes on")
        return INTERRUPTED
    return 0


_Url = Annotated[str, typer.Option(metavar="URL", help="Of the running server.")]
_Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", envvar=variable_of("api_key"), help="API key, where the server wants one."),
]
_Model = Annotated[str | None, typer.Option(metavar="NAME", help="Name to ask for (default: the server's first).")]
_HERE = f"http://127.0.0.1:{ServeSettings.model_fields['port'].default}"


@app.command("chat")
def chat(
    message: Annotated[
        str | None, typer.Argument(metavar="[MESSAGE]", help="Send this, print the answer and leave.")
    ] = None,
    url: _Url = _HERE,
    api_key: _Key = None,
    model: _Model = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System prompt.")] = "",
    field: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A field of the requests: temperature=0.2. Repeatable."),
    ] = None,
) -> int:
    """Talk to a running server. Without a terminal, standard input is the message.

    Answers go to standard output and all else to standard error. An answer survives a lost connection.
    """
    from gateway.terminal import chat
    from gateway.terminal.client import Server

    fields = {}
    for each in field or ():
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{each}: write NAME=VALUE, as in temperature=0.2", param_hint="--set")
        fields[name] = chat.as_value(value)
    with Server(url, _single(api_key)) as server:
        return chat.run(server, model, system, fields, message)


@app.command("top")
def top(
    url: _Url = _HERE,
    api_key: _Key = None,
    interval: Annotated[float, typer.Option(min=0.1, max=60, metavar="SECONDS", help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", metavar="", help="Print one view and leave.")] = False,
) -> int:
    """Watch a running server: rates, latencies of the last interval, batch, queue and blocks of each replica."""
    from gateway.terminal import top
    from gateway.terminal.client import Server

    with Server(url, _single(api_key)) as server:
        return top.run(server, interval, once=once)


@app.command("bench")
def bench(
    url: _Url = _HERE,
    api_key: _Key = None,
    model: _Model = None,
    requests: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Requests in all.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Requests under way at any time.")] = 16,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="REQUESTS", help="Send so many a second, at random times, instead."),
    ] = None,
    prompt_tokens: Annotated[
        str, typer.Option(metavar="LENGTHS", help="128, 64-192, 64,1024 or lognormal:128:0.6.")
    ] = "128",
    output_tokens: Annotated[str, typer.Option(metavar="LENGTHS", help="The same of answers.")] = "64",
    shared_prefix: Annotated[
        int, typer.Option(min=0, metavar="TOKENS", help="Beginning that all prompts share, before those tokens.")
    ] = 0,
    slo: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="Milliseconds that good answers keep to: ttft=500,itl=100 (tpot, e2e)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Of prompts and times; else no two runs are alike.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON rather than a table.")] = False,
) -> int:
    """Measure how fast a running server answers. Prompts are random tokens; answers end at their length alone."""
    from gateway.load.client import Client
    from gateway.load.prompts import Lengths
    from gateway.load.summary import Slo
    from gateway.terminal import bench
    from gateway.terminal.client import Server

    key = _single(api_key)
    load = bench.Load(
        requests=requests,
        concurrency=concurrency,
        rate=rate,
        prompt_tokens=_parsed("--prompt-tokens", Lengths.parse, prompt_tokens),
        output_tokens=_parsed("--output-tokens", Lengths.parse, output_tokens),
        shared_prefix=shared_prefix,
        seed=time.time_ns() % 2**32 if seed is None else seed,
        slo=_parsed("--slo", Slo.parse, slo) if slo else None,
    )
    with Server(url, key) as server:
        client = Client(url=server.url, model=model or server.models()[0], prompt_as="ids", api_key=key)
    return bench.run(client, load, as_json=as_json)


@app.command("completion")
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_choices=False)],
) -> None:
    """Print a script that completes commands and flags: source <(penstock completion bash)."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="penstock", complete_var=_COMPLETING, shell=shell.value))


def _parsed(flag: str, parse: Callable[[str], T], text: str) -> T:
    """What ``parse`` makes of the text; its ``ValueError`` is a mistake in the flag."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None


def _single(api_key: str | None) -> str | None:
    """The server's variable may hold several keys; any will do."""
    return api_key.split(",")[0].strip() or None if api_key else None


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments of ``serve`` → what stood there, by the names of settings. Raises typer's errors."""
    serving = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = _stood(serving.make_context("penstock serve", list(arguments)).params)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def run(head_start: HeadStart | None) -> int:
    """Do what ``sys.argv`` says and return the exit status; a mistake of the user's is one line and status 2."""
    predecessor = Predecessor.inherited(os.environ)
    if _COMPLETING in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()

    def refuse(mistakes: Sequence[str]) -> None:
        for mistake in mistakes:
            _say(f"error: {mistake}")
        if predecessor is not None:
            predecessor.fail("; ".join(mistakes))

    try:
        return int(app(standalone_mode=False, prog_name="penstock", obj=Origin(head_start, predecessor)) or 0)
    except SettingsError as error:
        refuse(error.mistakes)
        return USAGE_ERROR
    except typer.TyperException as error:
        # A bare `penstock` ends here as well, its help printed and nothing more to say.
        if message := error.format_message():
            # What pydantic puts before a refusal, and the lines of a list of choices.
            refuse([" ".join(message.replace("Value error, ", "").split())])
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except ServerError as error:
        _say(f"error: {error}")
        return FAILURE


def _say(line: str) -> None:
    print(f"penstock: {line}", file=sys.stderr)
