"""Sends a server what its own OpenAPI document allows, and what OpenAI's does: ``make fuzz``.

Without ``--url`` the server is one that this command starts, with the demo model and a short context.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fuzz_documents
import httpx
from fuzz_cases import Runner, Tally
from fuzz_documents import Document

GENERATING = ("/chat/completions", "/completions")
KEY = "admin"
SETTINGS = ("--max-model-len", "128", "--max-num-seqs", "32", "--admin-key", KEY, "--log-level", "warning")
"""Of the server: an answer without an end of its own is over soon."""
LEAST_ACCEPTED = 0.3
"""Share of the cases. Where fewer are, what is tried is refusals."""


def shares(labels: list[str], cases: int) -> dict[str, int]:
    """How many cases each operation gets: those that generate get most of them."""
    weights = {label: 8 if label.endswith(GENERATING) else 3 if label.startswith("POST") else 0.2 for label in labels}
    total = sum(weights.values())
    return {label: max(1, round(cases * weight / total)) for label, weight in weights.items()}


def run(document: Document, url: str, key: str, cases: int, number: int) -> Tally:
    """At least about so many cases; a fifth of those with a body have one that is wrong on purpose."""
    tally = Tally()
    runner = Runner(
        document,
        url,
        {"Authorization": f"Bearer {key}"} if key else {},
        tally,
        exact="ErrorBody" in document["components"]["schemas"] and "/tokenize" in document["paths"],
    )
    for label, share in shares(runner.labels(), cases).items():
        wrong = share // 5 if runner.has_body(label) else 0
        runner.run(label, share - wrong, number)
        if wrong:
            runner.run(label, wrong, number + 1, negative=True)
    return tally


def report(name: str, tally: Tally, seconds: float, reasons: int) -> None:
    print(f"{name}: {tally.cases} cases in {seconds:.0f} s, {tally.accepted / tally.cases:.1%} accepted", flush=True)
    for label, statuses in tally.by_operation.items():
        print(f"  {label:50} {dict(sorted(statuses.items()))}")
        for reason, count in tally.reasons.get(label, Counter()).most_common(reasons):
            print(f"    {count:6} {reason}")
    for kind, example in tally.failures.items():
        print(f"\n--- {name} {kind}\n{example}", flush=True)


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The URL of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([Path(sys.executable).parent / "penstock", "serve", *SETTINGS, "--port", port])
    try:
        while not _is_ready(url):
            if process.poll() is not None:
                raise SystemExit("the server has ended")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/ready", timeout=60).status_code == 200
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--key", default=KEY, help="its admin key, which is its API key as well if it has one")
    parser.add_argument("--cases", type=int, default=10_000, help="for each document")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reasons", type=int, default=0, help="show so many reasons of refusals for each operation")
    parser.add_argument("--document", choices=("own", "openai"), help="one of the two only")
    options = parser.parse_args()
    failed = False
    with contextlib.nullcontext(options.url) if options.url else serving() as url:
        served = httpx.get(f"{url}/openapi.json", timeout=60).json()
        made = {
            "own": lambda: fuzz_documents.own(served),
            "openai": lambda: fuzz_documents.openai(fuzz_documents.published(), served),
        }
        for name in [options.document] if options.document else made:
            began = time.monotonic()
            tally = run(made[name](), url, options.key, options.cases, options.seed)
            report(name, tally, time.monotonic() - began, options.reasons)
            failed = failed or bool(tally.failures) or tally.accepted < LEAST_ACCEPTED * tally.cases
        failed = failed or not _is_ready(url)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
