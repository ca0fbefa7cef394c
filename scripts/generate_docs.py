"""Write the files that come from code: pages of the documentation, Grafana's dashboards and Prometheus' rules.

Run as ``make docs``; ``make check`` runs it with ``--check``, which only compares and fails where a file is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastapi.routing import APIRoute

from gateway.cli_help import INTRODUCTION, SOURCES, default_text, metavar, switch_of
from gateway.protocol.base import RequestModel
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.fields import NoOp
from gateway.protocol.generation import GenerationRequest
from gateway.protocol.sampling import StreamOptions
from gateway.protocol.token_requests import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from gateway.routes import routers
from gateway.settings import ServeSettings, names_of_group, option_of, variable_of
from scripts.metrics_page import metrics_page
from scripts.monitoring.boards import DASHBOARDS
from scripts.monitoring.rules import alerts_file
from scripts.page import NOTICE, table

ROOT = Path(__file__).parents[1]


def cli() -> str:
    """The flags of ``penstock serve``, from the settings."""
    parts = [
        NOTICE.format(source="gateway/setting_groups.py"),
        "# The command line\n",
        f"`penstock serve [MODEL] [OPTIONS]`: {INTRODUCTION[0].lower()}{INTRODUCTION[1:]}\n",
        f"{SOURCES} A line of the file may name a setting as the flag does or with underscores. In a variable, the "
        "values of a repeatable setting are separated by commas. A mistake ends the start with one line that says "
        "where it is; all mistakes are told at once.\n",
    ]
    for group, names in names_of_group().items():
        parts += [f"## {group}\n", table(("Flag", "Variable", "Default", "Meaning"), map(_setting_row, names))]
    parts += [
        "## Other commands\n",
        "- `penstock upgrade [--port PORT] [--control PATH] [--in-place] [-- OPTIONS]` replaces a running server by a "
        "new process, which takes over its listening socket; [restart.md](restart.md) says how. OPTIONS are those "
        "above. Status 1: it did not work, and the old server goes on.",
        "- `penstock hash-key NAME [--key KEY] [--max-concurrency COUNT]` prints an entry for the file of "
        "`--api-keys`, a YAML list of `{name, sha256, max_concurrency}`. Without `--key` it makes a new key and shows "
        "it once, on standard error; `--key -` reads one from standard input.",
        "- `penstock chat [MESSAGE]`, `penstock top` and `penstock bench` talk to a running server, watch it and "
        "measure it; [terminal.md](terminal.md) has them.",
        "- `penstock completion bash|zsh|fish` prints a script that completes commands and flags.",
        "- `penstock --version` prints the version.\n",
    ]
    return "\n".join(parts)


def _setting_row(name: str) -> Sequence[str]:
    flag = "`MODEL`" if name == "model" else " ".join(f"`{part}`" for part in switch_of(name).split("/"))
    if name != "model" and metavar(name):
        flag = f"{flag[:-1]} {metavar(name)}`"
    if short := option_of(name).short:
        flag += f" `{short}`"
    field = ServeSettings.model_fields[name]
    return flag, f"`{variable_of(name)}`", default_text(name), field.description or ""


def api() -> str:
    """The routes, and the request fields: honoured, or accepted at a no-op value only."""
    return "\n".join(
        [
            NOTICE.format(source="gateway/routes/ and gateway/protocol/"),
            "# The API\n",
            "## Routes\n",
            table(("Route", "What it does"), _routes()),
            "With `--api-key` or `--api-keys`, everything under `/v1` and every POST needs a key; the rest is open. "
            "What is under `/admin` needs an admin key (`--admin-key`) instead, else it is a 401; where the server was "
            "given none, it is a 404.\n",
            "## Request fields\n",
            "A field is honoured or refused; none is silently ignored. A field that is known and not supported is "
            "accepted at the values shown, where leaving it out would mean the same, and is otherwise answered with "
            "400 `unsupported_parameter`. `null` always counts as left out. A field that is not known is answered "
            "with 400 `unknown_parameter` and the nearest known name; `--unknown-fields warn` lets it through, says so "
            "in the header `x-penstock-ignored-fields` and counts it, `--unknown-fields ignore` only counts it.\n",
            'Types are strict: `"7"` is no integer and `true` is no number, but `7.0` is the integer 7. The OpenAPI '
            "document of a server, `/openapi.json` and as a page `/docs`, has its limits.\n",
            *_endpoint("POST /v1/chat/completions", ChatCompletionRequest),
            *_endpoint("POST /v1/completions", CompletionRequest),
            *_endpoint("stream_options", StreamOptions),
            "## POST /v1/chat/completions/input_tokens and /v1/chat/completions/render\n",
            "The fields of `POST /v1/chat/completions`. A prompt that leaves no room for an answer is counted and "
            "shown all the same.\n",
            *_endpoint("POST /tokenize, of a text", TokenizeTextRequest),
            *_endpoint("POST /tokenize, of messages", TokenizeChatRequest),
            *_endpoint("POST /detokenize", DetokenizeRequest),
            *_endpoint("POST /generation", GenerationRequest),
        ]
    )


def _routes() -> list[tuple[str, str]]:
    return [
        (f"`{' '.join(sorted(route.methods))} {route.path}`", route.summary or "")
        for router in routers()
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    ]


def _endpoint(title: str, schema: type[RequestModel]) -> list[str]:
    parts = [f"## {title}\n", "### Honoured\n", _honoured(schema)]
    if schema.unsupported:
        parts += ["### Accepted only where they change nothing\n", _no_ops(schema.unsupported)]
    return parts


def _honoured(schema: type[RequestModel]) -> str:
    rows = [(f"`{name}`", field.description or "") for name, field in sorted(schema.model_fields.items())]
    return table(("Field", "Meaning"), rows)


def _no_ops(fields: Mapping[str, NoOp]) -> str:
    rows = [
        (f"`{name}`", ", ".join(f"`{json.dumps(value)}`" for value in (None, *no_op.values)), no_op.why)
        for name, no_op in sorted(fields.items())
    ]
    return table(("Field", "Accepted", "Why it is not supported"), rows)


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/cli.md": cli,
    "docs/metrics.md": metrics_page,
    "docs/api.md": api,
    "observability/alerts.yml": alerts_file,
    **{f"observability/grafana/dashboards/{board.title.lower()}.json": board.json for board in DASHBOARDS},
}


def stale() -> list[str]:
    """Names of the files that differ from what the code says."""
    return [
        name
        for name, write in PAGES.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != write()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 where a file is stale")
    if parser.parse_args().check:
        for name in stale():
            print(f"{name} is not what the code says; run `make docs`", file=sys.stderr)
        return int(bool(stale()))
    for name, write in PAGES.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(write(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
