"""The page of ``penstock serve --help``: one panel for each group of settings, two columns in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from typer.core import TyperCommand, TyperGroup

from gateway.settings import ENV_PREFIX, ServeSettings, flag_of, names_of_group, option_of

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY = "Serve MODEL behind the OpenAI API, with a chat page and metrics."

INTRODUCTION = (
    "Serve MODEL, a Hugging Face id or a local folder, behind the OpenAI API, with a chat page at / and metrics at "
    "/metrics. Without MODEL, the small demo model that comes with Penstock is served: that needs no download."
)

EXAMPLES = (
    "penstock serve",
    "penstock serve Qwen/Qwen3-0.6B --port 8123",
    "penstock serve ./my-model --served-model-name mine --kv-cache-memory 2GiB",
)

SOURCES = (
    f"Each option may also be a variable ({ENV_PREFIX}MAX_MODEL_LEN=4096) or a line of the file given with --config "
    "(max-model-len: 4096). Flags come first, then variables, then the file."
)

WIDEST = 110


def metavar(name: str) -> str:
    """What the value of a flag is called: its choices where they are few, else a word such as ``TOKENS``."""
    annotation = ServeSettings.model_fields[name].annotation
    if annotation is bool:
        return ""
    return option_of(name).metavar or "|".join(map(str, get_args(annotation)))


def default_text(name: str) -> str:
    """The default as help and documentation show it."""
    field, option = ServeSettings.model_fields[name], option_of(name)
    if field.annotation is bool:
        return "on" if field.default else "off"
    if option.metavar == "SIZE" and field.default is not None:
        return f"{field.default // 2**20}MiB" if field.default >= 2**20 else f"{field.default // 2**10}KiB"
    if isinstance(field.default, float):
        return f"{field.default:g}"
    return option.default or str(field.default)


def switch_of(name: str) -> str:
    """The flag as typer declares it: a switch has a form that turns it off."""
    on = flag_of(name)
    return f"{on}/--no-{on.removeprefix('--')}" if ServeSettings.model_fields[name].annotation is bool else on


def flags_of(name: str) -> list[str]:
    """All ways to write it, as typer declares them."""
    return [switch_of(name), *filter(None, [option_of(name).short])]


def print_help(console: Console) -> None:
    """Write the whole page. A terminal as narrow as 80 columns shows it without broken words."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console.print("\n[bold]Usage:[/bold] penstock serve [MODEL] [OPTIONS]\n", markup=True, highlight=False)
    console.print(Text(INTRODUCTION), end="\n\n")
    for group, names in names_of_group().items():
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(width=max(30, console.width * 2 // 5), overflow="fold")
        table.add_column(ratio=1)
        for name in names:
            left = Text("MODEL" if name == "model" else "\n".join(flags_of(name)).replace("/", "\n"), style="bold cyan")
            if name != "model" and metavar(name):
                left.append(f" {metavar(name)}", style="yellow")
            right = Text(ServeSettings.model_fields[name].description or "")
            right.append(f" (default: {default_text(name)})", style="dim")
            table.add_row(left, right)
        console.print(Panel(table, title=group, title_align="left", border_style="dim"))
    console.print("\n[bold]Examples[/bold]")
    for example in EXAMPLES:
        console.print(Text(f"  {example}", style="green"))
    console.print(Text(f"\n{SOURCES}"), end="\n\n")


def print_overview(console: Console) -> None:
    """The page of ``penstock --help``: what it is, its commands, and a first step."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    commands = Table.grid(padding=(0, 2))
    commands.add_column(style="bold cyan")
    commands.add_row("serve [MODEL]", SUMMARY)
    commands.add_row("chat [MESSAGE]", "Talk to a running server.")
    commands.add_row("top", "Watch a running server.")
    commands.add_row("bench", "Measure how fast a running server answers.")
    commands.add_row("upgrade [-- OPTIONS]", "Replace a running server by a new process; no connection is refused.")
    commands.add_row("hash-key NAME", "Print an entry for the file of --api-keys.")
    commands.add_row("completion SHELL", "Print a completion script for bash, zsh or fish.")
    console.print("\n[bold]Usage:[/bold] penstock COMMAND [OPTIONS]\n", markup=True, highlight=False)
    console.print(Text("Serve a large language model behind the OpenAI API, on a CPU or on a GPU."), end="\n\n")
    console.print(Panel(commands, title="Commands", title_align="left", border_style="dim"))
    console.print("\n[bold]A first step[/bold]")
    console.print(Text("  penstock serve", style="green"), Text("and open http://127.0.0.1:8000 in a browser"))
    console.print(Text("\npenstock COMMAND --help explains a command, penstock --version says which release this is."))
    console.print()


class PenstockGroup(TyperGroup):
    """``penstock`` with the page above for its ``--help``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Called by typer for ``--help``, and where there is no command."""
        print_overview(_console())


class ServeCommand(TyperCommand):
    """``serve`` with its page of all settings for ``--help``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Called by typer for ``--help``."""
        print_help(_console())


def _console() -> Console:
    """Of the terminal's width, but no wider than lines are read with ease."""
    from rich.console import Console

    console = Console()
    return Console(width=min(console.width, WIDEST))
