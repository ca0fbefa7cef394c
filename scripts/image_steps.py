"""Runs the steps of the Dockerfile where no engine for images is at hand: ``python -m scripts.image_steps``.

Each stage has a root of its own, which a shell enters by a mount namespace and chroot (Linux, ``unshare``). It holds
this machine's ``/usr`` and Python in place of the base image's, what earlier steps have made, and nothing of the
environment but pip's settings. Steps that change the base system are told and left out: what they install must be here
already. Then the image's command is started, its health check run until it passes, and a completion asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import httpx

from benchmarks import processes

REPOSITORY = Path(__file__).parents[1]
OF_THE_BASE = ("apt-get", "useradd")
"""A RUN with one of these changes the base system."""
BASE_PYTHON = Path(sys.base_prefix) / "bin"
BASE_PATH = f"{BASE_PYTHON}:/usr/local/bin:/usr/bin:/bin"
READY_SECONDS = 120.0


class StepError(Exception):
    """A step has failed, or cannot be understood; readable by the person at the terminal."""


@dataclass(frozen=True)
class Step:
    word: str
    """``RUN``, ``COPY``, …"""
    text: str


@dataclass(frozen=True)
class Stage:
    base: str
    steps: list[Step] = field(default_factory=list)


@dataclass
class Built:
    """What a stage has come to."""

    root: Path
    env: dict[str, str]
    folder: str = "/"
    words: dict[str, str] = field(default_factory=dict)
    """Of ENTRYPOINT, CMD and HEALTHCHECK, as written."""

    @property
    def command(self) -> list[str]:
        return [*json.loads(self.words["ENTRYPOINT"]), *json.loads(self.words["CMD"])]

    @property
    def health_check(self) -> list[str]:
        return list(json.loads(self.words["HEALTHCHECK"].partition("CMD")[2]))


def read(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile, by name; the last one is what is built."""
    stages: dict[str, Stage] = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(base)
        else:
            stages[list(stages)[-1]].steps.append(Step(word, " ".join(rest.split())))
    return stages


def sources_of(step: Step) -> tuple[str, list[str], str]:
    """Of a COPY: the stage that it copies from, or nothing for the repository, the sources, and where to."""
    words = step.text.split()
    origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
    return origin, words[:-1], words[-1]


class Builder:
    def __init__(self, stages: Mapping[str, Stage], work: Path) -> None:
        self._stages = stages
        self._work = work
        self._built: dict[str, Built] = {}

    def build(self, name: str) -> Built:
        """Raises ``StepError``."""
        if name not in self._built:
            stage = self._stages[name]
            built = self._begin(name, stage.base)
            for step in stage.steps:
                print(f"{name}: {step.word} {step.text}", flush=True)
                self._apply(step, built)
            self._built[name] = built
        return self._built[name]

    def _begin(self, name: str, base: str) -> Built:
        root = self._work / name
        if base not in self._stages:
            skeleton(root)
            return Built(root, {"PATH": BASE_PATH, "HOME": "/root"})
        below = self.build(base)
        link(below.root, root)
        return Built(root, dict(below.env), below.folder, dict(below.words))

    def _apply(self, step: Step, built: Built) -> None:
        match step.word:
            case "RUN" if any(word in step.text for word in OF_THE_BASE):
                print("  not run: it changes the base system", flush=True)
            case "RUN":
                self._run(step, built)
            case "COPY":
                self._copy(step, built)
            case "WORKDIR":
                built.folder = step.text
                inside(built.root, step.text).mkdir(parents=True, exist_ok=True)
            case "ENV" | "ARG":
                for pair in shlex.split(step.text):
                    name, _, value = pair.partition("=")
                    built.env[name] = Template(value).safe_substitute(built.env)
            case "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
                built.words[step.word] = step.text
            case "USER" | "EXPOSE":
                pass
            case _:
                raise StepError(f"{step.word} is not known to this script")

    def _run(self, step: Step, built: Built) -> None:
        env = built.env | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        done = subprocess.run(entering(built, ["/bin/sh", "-c", step.text], env), check=False)
        if done.returncode:
            raise StepError(f"ended with status {done.returncode}: RUN {step.text}")

    def _copy(self, step: Step, built: Built) -> None:
        origin, sources, target = sources_of(step)
        for source in sources:
            found = inside(self.build(origin).root, source) if origin else REPOSITORY / source
            to = inside(built.root, str(Path(built.folder) / target))
            if target.endswith("/"):
                to = to / found.name
            to.parent.mkdir(parents=True, exist_ok=True)
            if origin:
                link(found, to)
            elif found.is_dir():
                shutil.copytree(found, to, ignore=shutil.ignore_patterns("__pycache__", "*.so"), dirs_exist_ok=True)
            else:
                shutil.copy(found, to)


def inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def link(source: Path, target: Path) -> None:
    """A copy that shares the files with what it is a copy of: no step changes one in place."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", f"{source}/.", str(target)], check=True)


def shared() -> list[Path]:
    """Folders of this machine that every root shows: the base system, Python, and where pip may look for packages."""
    usr = [Path("/usr") / name for name in ("bin", "sbin", "lib", "lib64", "libexec", "include", "share")]
    top = [Path(name) for name in ("/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys")]
    python = [] if sys.base_prefix == "/usr" else [Path(sys.base_prefix)]
    return [path for path in (*usr, *top, *python, *Path("/opt").glob("*")) if path.is_dir()]


def skeleton(root: Path) -> None:
    """A root with nothing in it but places for what is shared."""
    for path in shared():
        if path.is_symlink():
            root.mkdir(parents=True, exist_ok=True)
            inside(root, str(path)).symlink_to(path.readlink())
        else:
            inside(root, str(path)).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "root", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    if not (BASE_PYTHON / "python").exists():  # as Debian's own
        (root / "usr/local/bin/python").symlink_to(BASE_PYTHON / "python3")


def entering(built: Built, command: list[str], env: Mapping[str, str]) -> list[str]:
    """A command line that runs ``command`` in a stage's root and folder, with ``env`` and nothing else of ours."""
    mounts = [
        f"mount --rbind {shlex.quote(str(path))} {shlex.quote(str(inside(built.root, str(path))))}"
        for path in shared()
        if not path.is_symlink()
    ]
    change = f"cd {shlex.quote(built.folder)} && exec env -i {shlex.join(f'{k}={v}' for k, v in env.items())}"
    change = f"{change} {shlex.join(command)}"
    script = " && ".join([*mounts, f"exec chroot {shlex.quote(str(built.root))} /bin/sh -c {shlex.quote(change)}"])
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c", script]


def try_out(built: Built, log: Path) -> None:
    """Start the image's command, as with ``docker run -e PENSTOCK_PORT=…``; raises ``StepError`` or ``StartError``."""
    port = processes.free_port()
    env = built.env | {"HOME": "/home/penstock", "PENSTOCK_PORT": str(port)}
    check = [word.replace(":8000/", f":{port}/") for word in built.health_check]
    print(f"starting {shlex.join(built.command)}", flush=True)
    with processes.run(entering(built, built.command, env), log) as process:
        end = time.monotonic() + READY_SECONDS
        while subprocess.run(entering(built, check, env), stderr=subprocess.DEVNULL, check=False).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise StepError(f"its health check does not pass:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.5)
        body = {"prompt": "Water", "max_tokens": 8}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
        if answer.status_code != 200 or answer.json()["usage"]["completion_tokens"] < 1:
            raise StepError(f"a completion was answered with {answer.status_code}: {answer.text[:400]}")
    print("the health check passes, and a completion was answered", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="a stage; the last one is built else")
    asked = parser.parse_args()
    stages = read((REPOSITORY / "Dockerfile").read_text(encoding="utf-8"))
    processes.end_at_signals()
    with tempfile.TemporaryDirectory(prefix="penstock-image-", ignore_cleanup_errors=True) as work:
        try:
            built = Builder(stages, Path(work)).build(asked.target or list(stages)[-1])
            try_out(built, Path(work) / "log")
        except (StepError, processes.StartError) as error:
            sys.exit(f"penstock: {error}")


if __name__ == "__main__":
    main()
