"""What a contender takes on disk: a distribution and all that it asks for, as installed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.peers import environments
from benchmarks.peers.contenders import Contender

# Runs in the contender's environment. An editable installation lists no files of the project itself: its folders do.
CODE = """
import importlib.metadata as metadata, json, os, sys
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement

seen, size, todo = set(), 0, list(sys.argv[1:])
while todo:
    name = todo.pop().lower().replace("_", "-")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    if name in seen:
        continue
    seen.add(name)
    for file in distribution.files or ():
        path = file.locate()
        size += path.stat().st_size if path.is_file() else 0
    link = json.loads(distribution.read_text("direct_url.json") or "{}")
    if link.get("dir_info", {}).get("editable"):
        root = Path(link["url"].removeprefix("file://"))
        for folder in ("gateway", "engine", "kernels", "observability"):
            files = [path for path in (root / folder).rglob("*") if path.is_file()]
            size += sum(path.stat().st_size for path in files if "__pycache__" not in path.parts)
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            todo.append(requirement.name)
print(json.dumps({"version": metadata.version(sys.argv[1]), "bytes": size, "distributions": len(seen)}))
"""


def measure(contender: Contender) -> dict[str, Any] | None:
    """Version and bytes; None for a second configuration of something that another row has."""
    if contender.name == "llama.cpp":
        program = environments.llama_server()
        version = f"of {environments.LLAMA_CPP.replace('==', ' ')}"
        return {"version": version, "bytes": program.stat().st_size, "distributions": 0}
    if not contender.packages:
        return None
    python = str(environments.python_of(contender.environment)) if contender.environment else sys.executable
    command = [python, "-c", CODE, *contender.packages]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
