"""An environment for each suite, made once under ``build/compat`` and made again when what it holds has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from scripts.compatibility.suites import OPENAI, ROOT, SOURCES, Suite

HOME = ROOT / "build" / "compat"


def python_of(suite: Suite) -> Path:
    return HOME / suite.environment / "bin" / "python"


def folder_of(suite: Suite) -> Path:
    """Where it runs."""
    return HOME / suite.environment / "suite"


def prepare(suite: Suite) -> None:
    """Raises CalledProcessError where something cannot be installed."""
    environment = HOME / suite.environment
    manifest = SOURCES / suite.source / "package.json"
    recipe = repr((suite.packages, manifest.read_text() if suite.is_node else ""))
    stamp = environment / ".made"
    if not (stamp.is_file() and stamp.read_text() == recipe):
        print(f"making {environment}", flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(environment)])
        _run([*_pip(suite), "install", *suite.packages])
        folder_of(suite).mkdir()
        if suite.is_node:
            shutil.copy(manifest, folder_of(suite))
            npm = str(python_of(suite).parent / "npm")
            _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder_of(suite))
        if not suite.source:
            _unpack(suite)
        stamp.write_text(recipe)
    if suite.source:
        shutil.copytree(SOURCES / suite.source, folder_of(suite), dirs_exist_ok=True)


def _unpack(suite: Suite) -> None:
    """The client's source distribution, which carries its tests."""
    download = HOME / suite.environment / "download"
    _run([*_pip(suite), "download", "--no-deps", "--no-binary", ":all:", "-d", str(download), OPENAI])
    with tarfile.open(next(download.glob("*.tar.gz"))) as archive:
        top = Path(archive.getnames()[0]).parts[0]
        archive.extractall(download, filter="data")
    folder_of(suite).rmdir()
    (download / top).rename(folder_of(suite))


def versions(suite: Suite) -> dict[str, str]:
    """Of the packages that the page shows, as installed."""
    if suite.is_node:
        modules = folder_of(suite) / "node_modules"
        return {name: json.loads((modules / name / "package.json").read_text())["version"] for name in suite.shown}
    code = "import importlib.metadata, sys\nfor name in sys.argv[1:]: print(importlib.metadata.version(name))"
    done = subprocess.run([str(python_of(suite)), "-c", code, *suite.shown], check=True, capture_output=True, text=True)
    return dict(zip(suite.shown, done.stdout.split(), strict=True))


def _pip(suite: Suite) -> list[str]:
    return [str(python_of(suite)), "-m", "pip", "--disable-pip-version-check", "--quiet"]


def _run(command: list[str], folder: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=folder)
