"""The same weights in the formats of the peers that read no checkpoint: OpenVINO's and llama.cpp's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.peers import environments


def openvino(checkpoint: Path, weights: str) -> Path:
    """``weights``: fp32 or int8. Exported by optimum-intel."""
    target = checkpoint.with_name(f"{checkpoint.name}-openvino-{weights}")
    if not (target / "openvino_model.bin").is_file():
        environments.make("export")
        task = ("--task", "text-generation-with-past", "--weight-format", weights)
        tool = environments.python_of("export").with_name("optimum-cli")
        _run(target, str(tool), "export", "openvino", "--model", str(checkpoint), *task, str(target))
    return target


def gguf(checkpoint: Path, kind: str) -> Path:
    """``kind``: f32 or q8_0. Converted by llama.cpp's script."""
    target = checkpoint.with_name(f"{checkpoint.name}-{kind}.gguf")
    if not target.is_file():
        environments.make("llama-cpp")
        environments.make("export")
        script = Path(__file__).with_name("gguf_export.py")
        unfinished = target.with_suffix(".part")
        arguments = (str(checkpoint), "--outtype", kind, "--outfile", str(unfinished))
        source = str(environments.llama_cpp_source())
        _run(target, str(environments.python_of("export")), str(script), source, *arguments)
        unfinished.rename(target)
    return target


def _run(target: Path, *command: str) -> None:
    """What the converter says goes to a log beside ``target``."""
    print(f"making {target}", flush=True)
    with target.with_name(f"{target.name}.log").open("w") as log:
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
