"""How fast a server answers: a load generator over HTTP for anything that speaks OpenAI's API.

    make bench                                          the demo model, on a server that this starts and stops
    make bench ARGS="--concurrency 32 --serve 'DIR --dtype float32'"
    make bench ARGS="--url http://127.0.0.1:8000 --tokenizer DIR --rate 4 --slo ttft=500,itl=100"

A closed loop keeps --concurrency requests under way; an open loop (--rate) sends them at random times, as users do who
do not wait for each other. Lengths are 128, 64-192 (uniform), 64,1024 (one of these) or lognormal:128:0.6.
With --tokenizer prompts are text of exactly so many tokens, else token ids. No two prompts share a beginning that was
not asked for, and no two runs do unless --seed repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvloop
from tokenizers import Tokenizer

from benchmarks import processes
from benchmarks.load import picture
from gateway.load.client import Client, Course, Exchange, Request
from gateway.load.prompts import Lengths, PromptMaker
from gateway.load.summary import Slo, summarize
from gateway.load.traffic import closed_loop, open_loop, poisson_arrivals
from gateway.terminal.bench import show

PENSTOCK = (sys.executable, "-c", "from gateway.cli import main; main()", "serve")


@contextlib.contextmanager
def server(arguments: Sequence[str], log: Path) -> Iterator[str]:
    """Run ``penstock serve`` with ``arguments`` on a free port; gives its URL once it is ready."""
    url = f"http://127.0.0.1:{(port := processes.free_port())}"
    with processes.run([*PENSTOCK, *arguments, "--port", str(port), "--log-level", "warning"], log) as process:
        processes.wait_until_ready(process, f"{url}/ready", log, 600)
        yield url


def first_model(url: str, api_key: str | None) -> str:
    """The name that the server gives its first model."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    answer = httpx.get(f"{url}/v1/models", headers=headers, timeout=60, trust_env=False)
    return str(answer.raise_for_status().json()["data"][0]["id"])


def client_of(options: argparse.Namespace, url: str) -> Client:
    return Client(
        url=url,
        model=options.model or first_model(url, options.api_key),
        api=options.api,
        prompt_as="ids" if options.token_ids or not options.tokenizer else "text",
        extra=options.extra | ({"ignore_eos": None} if options.plain else {}),
        api_key=options.api_key,
        timeout=options.timeout,
    )


def requests_of(options: argparse.Namespace) -> list[Request]:
    """One to warm up with, then those that are measured."""
    source = options.tokenizer
    path = source / "tokenizer.json" if source and source.is_dir() else source
    maker = PromptMaker(Tokenizer.from_file(str(path)) if path else None, options.seed)
    prompts = maker.make(options.requests, options.prompt_tokens, options.shared_prefix, options.prefixes)
    lengths = maker.lengths(options.requests, options.output_tokens)
    warm_up = Request(maker.make(1, Lengths.parse("32"))[0], 4)
    return [warm_up, *map(Request, prompts, lengths)]


def measure(options: argparse.Namespace, url: str) -> tuple[list[Course], dict[str, Any]]:
    """Raises RuntimeError where the first request, which is not counted, fails."""
    client = client_of(options, url)
    warm_up, *requests = requests_of(options)

    async def load() -> list[Exchange]:
        first = (await client.ask(warm_up)).read()
        if first.error:
            raise RuntimeError(first.error)
        if options.rate:
            return await open_loop(client.ask, requests, poisson_arrivals(len(requests), options.rate, options.seed))
        return await closed_loop(client.ask, requests, options.concurrency)

    before = time.process_time()
    exchanges = uvloop.run(load())
    cpu = time.process_time() - before
    courses = [exchange.read() for exchange in exchanges]
    result = summarize(courses, None if options.rate else options.concurrency, options.slo)
    settings = {name: str(value) for name, value in vars(options).items() if name != "api_key" and value is not None}
    client_share = cpu / result["seconds"] if "seconds" in result else None
    return courses, {"settings": settings, **result, "client_cpu_cores": client_share}


def _lengths(text: str) -> Lengths:
    try:
        return Lengths.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _slo(text: str) -> Slo:
    try:
        return Slo.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write ttft=500,itl=100") from error


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="a server that runs already, without /v1")
    where.add_argument("--serve", default="", metavar="ARGS", help="arguments of penstock serve, MODEL among them")
    parser.add_argument("--model", help="name to ask for (default: the server's first)")
    parser.add_argument("--api", choices=("completions", "chat"), default="completions")
    parser.add_argument("--api-key")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, or a folder that holds it: prompts are text")
    parser.add_argument("--token-ids", action="store_true", help="send token ids though there is a tokenizer")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--concurrency", type=int, default=16, help="closed loop (default: 16)")
    how.add_argument("--rate", type=float, help="open loop: Poisson arrivals, requests per second")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=_lengths, default="128", metavar="LENGTHS")
    parser.add_argument("--output-tokens", type=_lengths, default="64", metavar="LENGTHS")
    parser.add_argument("--shared-prefix", type=int, default=0, metavar="TOKENS", help="beginning that prompts share")
    parser.add_argument("--prefixes", type=int, default=1, help="how many such beginnings there are")
    parser.add_argument("--slo", type=_slo, help="limits in ms for goodput, of ttft, itl, tpot, e2e: ttft=500,itl=100")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of prompts and arrivals")
    parser.add_argument("--plain", action="store_true", help="send no field that OpenAI does not know")
    parser.add_argument(
        "--extra", type=json.loads, default={}, help="JSON to merge into every body; null omits a field"
    )
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one request")
    parser.add_argument("--json", action="store_true", help="print JSON rather than a table")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the JSON there")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write a picture there; the suffix says which kind"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    processes.end_at_signals()
    with contextlib.ExitStack() as stack:
        url = (options.url or "").rstrip("/")
        if not url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(server(shlex.split(options.serve), folder / "server.log"))
        courses, result = measure(options, url)
    if options.save:
        options.save.write_text(json.dumps(result, indent=1) + "\n")
    if options.picture and result["failed"] < result["requests"]:
        picture.draw(courses, f"{result['output_tokens_per_second']:,.0f} output tokens per second", options.picture)
    print(json.dumps(result)) if options.json else show(result)
    if result["failed"]:
        raise SystemExit(f"{result['failed']} of {result['requests']} requests failed")


if __name__ == "__main__":
    main()
