"""Runs unmodified clients against a server that this starts, and writes ``docs/compatibility.md``.

    python -m scripts.compatibility [--only SUITE]

It ends with status 1 where a test fails that tests/compat/explanations.yaml does not explain, or where that explains
what no longer fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import ParseError

from benchmarks import processes
from gateway.version import VERSION
from scripts.compatibility import environments, page
from scripts.compatibility.outcomes import read_explanations, read_report
from scripts.compatibility.suites import NODE, ROOT, SOURCES, SUITES, Suite

PAGE = ROOT / "docs" / "compatibility.md"
NAMES = ("demo", "gpt-6-astra", "gpt-3.5-turbo-instruct")
"""The model under the names that the suites ask for."""
FLAGS = tuple(word for name in NAMES for word in ("--served-model-name", name))
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
"""What clients would otherwise ask other servers for."""
LONGEST = 900.0
"""Seconds for one suite."""


@contextlib.contextmanager
def server(log: Path) -> Iterator[str]:
    """The base URL of a server of the demo model. Raises StartError."""
    port = processes.free_port()
    command = [str(Path(sys.executable).parent / "penstock"), "serve", "--port", str(port), *FLAGS]
    with processes.run(command, log) as process:
        processes.wait_until_ready(process, f"http://127.0.0.1:{port}/ready", log, 120.0)
        yield f"http://127.0.0.1:{port}/v1"


def run(suite: Suite, url: str, folder: Path) -> page.Run:
    """Raises OSError or ParseError where it did not get as far as a report."""
    report = folder / f"{suite.name.replace(' ', '-')}.xml"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON", "NODE_"))}
    told = {"OPENAI_BASE_URL": url, "TEST_API_BASE_URL": url, "OPENAI_API_KEY": "none"} | OFFLINE
    command = suite.command(environments.python_of(suite), report)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=environments.folder_of(suite), env=kept | told, timeout=LONGEST, check=False)
    return page.Run(suite, environments.versions(suite), read_report(report))


def run_all(suites: Sequence[Suite]) -> list[page.Run]:
    """Raises StartError where the server does not start, has ended, or has answered with a 5xx."""
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        log = folder / "server.log"
        with server(log) as url:
            for suite in suites:
                print(f"== {suite.name}", flush=True)
                runs.append(run(suite, url, folder))
        if failed := re.findall(r"^.* status=5\d\d.*$", log.read_text(errors="replace"), re.MULTILINE):
            raise processes.StartError("answered with a 5xx:\n" + "\n".join(failed))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[suite.name for suite in SUITES], help="this one; the page is not written")
    only = parser.parse_args().only
    processes.end_at_signals()
    suites = [suite for suite in SUITES if only in (None, suite.name)]
    try:
        for suite in suites:
            environments.prepare(suite)
        runs = run_all(suites)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"penstock: an environment could not be made: {' '.join(map(str, error.cmd))} ended with {error.returncode}"
        )
    except processes.StartError as error:
        sys.exit(f"penstock: the server {error}")
    except (OSError, ParseError) as error:
        sys.exit(f"penstock: a suite left no report: {error}")
    explanations = read_explanations(SOURCES / "explanations.yaml")
    for each in runs:
        print(f"{each.suite.name}: " + ", ".join(f"{each.count(r)} {r}" for r in ("passed", "failed", "skipped")))
    if not only:
        where = f"Penstock {VERSION}, Python {platform.python_version()} and Node {NODE.rpartition('=')[2]}"
        PAGE.write_text(page.write(runs, explanations, FLAGS, where), encoding="utf-8")
    problems = [f"fails, not explained: {each}" for each in page.unexplained(runs, explanations)]
    problems += [f"explained, and does not fail: {each}" for each in page.stale(runs, explanations)]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
