"""The subcommands of ``penstock``. The flags of ``serve`` are made from the fields of :class:`ServeSettings`.

Nothing heavy is imported here: ``penstock --help`` answers at once, and the server is imported by ``serve`` alone.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from gateway.cli_help import SUMMARY, PenstockGroup, ServeCommand, flags_of, metavar, switch_of
from gateway.handover.predecessor import Predecessor
from gateway.head_start import HeadStart
from gateway.settings import ServeSettings, SettingsError, unknown_variables, variable_of
from gateway.version import VERSION

FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="penstock",
    cls=PenstockGroup,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        bool, typer.Option("--in-place", help="End the old engines before the new ones load; connections wait.")
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


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments of ``serve`` → what stood there, by the names of settings. Raises typer's errors."""
    serving = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = _stood(serving.make_context("penstock serve", list(arguments)).params)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def run(head_start: HeadStart | None) -> int:
    """Do what ``sys.argv`` says and return the exit status; a mistake of the user's is one line and status 2."""
    predecessor = Predecessor.inherited(os.environ)

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
            refuse([message])
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED


def _say(line: str) -> None:
    print(f"penstock: {line}", file=sys.stderr)
