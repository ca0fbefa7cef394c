"""``docs/cli.md``: the flags of ``penstock serve``, from the settings, and those of the other commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import typer

from gateway.cli_help import INTRODUCTION, SOURCES, default_text, metavar, switch_of
from gateway.commands import app
from gateway.settings import ServeSettings, names_of_group, option_of, variable_of
from scripts.page import NOTICE, table

_OTHERS = """\
`penstock upgrade` replaces a running server by a new process ([how](restart.md)); `chat`, `top` and `bench` talk to a
running server, watch it and measure it ([more](terminal.md)); `hash-key` makes an entry for the file of `--api-keys`, a
YAML list of `{name, sha256, max_concurrency}`. `penstock --version` prints the version. The status is 0, or 1 where
something failed, 2 where the command line is wrong and 130 after Ctrl-C.
"""


def cli_page() -> str:
    parts = [
        NOTICE.format(source="gateway/setting_groups.py, gateway/limit_settings.py and gateway/commands.py"),
        "# The command line\n",
        f"`penstock serve [MODEL] [OPTIONS]`: {INTRODUCTION[0].lower()}{INTRODUCTION[1:]}\n",
        f"{SOURCES} A line of the file may name a setting as the flag does or with underscores. In a variable, the "
        "values of a repeatable setting are separated by commas. A mistake ends the start with one line that says "
        "where it is; all mistakes are told at once.\n",
    ]
    for group, names in names_of_group().items():
        parts += [f"## {group}\n", table(("Flag, variable", "Default", "Meaning"), map(_setting_row, names))]
    parts += ["## Other commands\n", _OTHERS]
    for name, command in sorted(commands().items()):
        if name != "serve":
            parts += _command(name, command)
    return "\n".join(parts)


def commands() -> dict[str, Any]:
    """The subcommands of ``penstock`` as typer has built them, by name."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _setting_row(name: str) -> Sequence[str]:
    flag = "`MODEL`" if name == "model" else " ".join(f"`{part}`" for part in switch_of(name).split("/"))
    if name != "model" and metavar(name):
        flag = f"{flag[:-1]} {metavar(name)}`"
    if short := option_of(name).short:
        flag += f" `{short}`"
    field = ServeSettings.model_fields[name]
    return f"{flag}<br>`{variable_of(name)}`", default_text(name), field.description or ""


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"### penstock {name}\n"
    yield f"{' '.join(command.help.split())}\n"
    yield table(("Argument", "Default", "Meaning"), [_parameter_row(each) for each in command.params])


def _parameter_row(parameter: Any) -> Sequence[str]:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`", "", parameter.help or ""
    flag = f"{parameter.opts[0]} {parameter.metavar}" if parameter.metavar else parameter.opts[0]
    meaning = parameter.help or ""
    if parameter.envvar:
        meaning += f" Variable: `{parameter.envvar}`."
    is_said = parameter.default not in (None, "", False, []) and not callable(parameter.default)
    return f"`{flag}`", f"`{parameter.default}`" if is_said else "", meaning
