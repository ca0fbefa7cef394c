"""Who is measured, and how each is started: a table of servers and of libraries that run in a process of ours.

Every cache holds at least ``CACHE_GIB``, all cores compute, and otherwise each runs as its own documentation advises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers import conversions, environments

CACHE_GIB = 1
CORES = len(os.sched_getaffinity(0))
MAX_LENGTH = 2048
HERE = Path(__file__).parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Contender:
    name: str
    label: str
    dtype: Literal["float32", "bfloat16", "int8"]
    """Type of the weights in memory."""
    command: Callable[[Path, int], list[str]]
    """From the prepared model and a port (which a library ignores) to what is started."""
    environment: str | None = None
    """Name in ``environments.RECIPES``; None is the environment that runs this."""
    prepare: Callable[[Path, str], Path] = lambda models, name: models / name
    """From the folder of models and a model's name to what the contender reads; converts where that is missing."""
    variables: Callable[[], Mapping[str, str]] = dict
    ready: str = "/health"
    is_library: bool = False
    """Runs in a worker that speaks JSON lines; no HTTP."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """For the bodies of requests; None takes a field out."""
    packages: tuple[str, ...] = ()
    """Distributions that are what a user installs; their size is reported."""

    @property
    def is_ours(self) -> bool:
        return self.environment is None


def _penstock(*options: str) -> Callable[[Path, int], list[str]]:
    serve = [sys.executable, "-c", "from gateway.cli import main; main()", "serve"]
    limits = ["--max-model-len", str(MAX_LENGTH), "--kv-cache-memory", f"{CACHE_GIB}GiB", "--log-level", "warning"]
    return lambda model, port: [*serve, str(model), *limits, *options, "--port", str(port)]


def _vllm(model: Path, port: int) -> list[str]:
    program = str(environments.python_of("vllm").with_name("vllm"))
    limits = ["--dtype", "float32", "--max-model-len", str(MAX_LENGTH)]
    return [program, "serve", str(model), *limits, "--port", str(port)]


def _vllm_variables() -> Mapping[str, str]:
    folder = environments.PEERS / "vllm"
    preloaded = (next(folder.rglob("libtcmalloc_minimal.so.4")), folder / "lib" / "libiomp5.so")
    return OFFLINE | {
        # Its own guess looks into the version of a distribution named vllm, which says nothing of a CPU here.
        "VLLM_TARGET_DEVICE": "cpu",
        "LD_PRELOAD": ":".join(map(str, preloaded)),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{CORES - 1}",
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_NO_USAGE_STATS": "1",
    }


def _transformers_serve(model: Path, port: int) -> list[str]:
    program = str(environments.python_of("transformers").with_name("transformers"))
    cache = ["--cb-block-size", "32", "--cb-num-blocks", "1024", "--cb-max-batch-tokens", "512"]
    how = ["--continuous-batching", "--device", "cpu", "--dtype", "float32", "--attn-implementation", "sdpa"]
    return [program, "serve", str(model), *how, *cache, "--port", str(port)]


def _worker(environment: str, script: str, *options: str) -> Callable[[Path, int], list[str]]:
    python = str(environments.python_of(environment))
    return lambda model, _: [python, str(HERE / script), str(model), str(CACHE_GIB), *options]


def _llama_cpp(model: Path, port: int) -> list[str]:
    threads = ["-t", str(CORES), "-tb", str(CORES)]
    slots = ["-np", "32", "-c", "49152", "-kvu"]
    quiet = ["--no-webui", "--log-disable"]
    return [str(environments.llama_server()), "-m", str(model), *threads, *slots, *quiet, "--port", str(port)]


_OPENVINO = ("openvino-genai", "openvino", "openvino-tokenizers")

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("penstock", "Penstock", "float32", _penstock(), ready="/ready", packages=("penstock",)),
        Contender(
            "penstock-bf16",
            "Penstock, bf16 checkpoint",
            "bfloat16",
            _penstock(),
            prepare=lambda models, name: models / f"{name}-bf16",
            ready="/ready",
        ),
        Contender("penstock-int8", "Penstock, int8", "int8", _penstock("--quantization", "int8"), ready="/ready"),
        Contender(
            "penstock-kv8",
            "Penstock, KV cache in int8",
            "float32",
            _penstock("--kv-cache-dtype", "int8"),
            ready="/ready",
        ),
        Contender("vllm", "vLLM", "float32", _vllm, "vllm", variables=_vllm_variables, packages=("vllm-cpu",)),
        Contender(
            "transformers",
            "transformers serve, continuous batching",
            "float32",
            _transformers_serve,
            "transformers",
            variables=lambda: OFFLINE,
            extra={"ignore_eos": None},
            packages=("transformers", "torch"),
        ),
        Contender(
            "generate",
            "transformers generate, padded batch (in process)",
            "float32",
            _worker("transformers", "generate_worker.py"),
            "transformers",
            variables=lambda: OFFLINE,
            is_library=True,
        ),
        Contender(
            "openvino",
            "OpenVINO GenAI (in process)",
            "float32",
            _worker("openvino", "openvino_worker.py"),
            "openvino",
            prepare=lambda models, name: conversions.openvino(models / name, "fp32"),
            is_library=True,
            packages=_OPENVINO,
        ),
        Contender(
            "openvino-kv32",
            "OpenVINO GenAI, KV cache in float32 (in process)",
            "float32",
            _worker("openvino", "openvino_worker.py", "f32"),
            "openvino",
            prepare=lambda models, name: conversions.openvino(models / name, "fp32"),
            is_library=True,
        ),
        Contender(
            "openvino-int8",
            "OpenVINO GenAI int8 (in process)",
            "int8",
            _worker("openvino", "openvino_worker.py"),
            "openvino",
            prepare=lambda models, name: conversions.openvino(models / name, "int8"),
            is_library=True,
        ),
        Contender(
            "llama.cpp",
            "llama.cpp",
            "float32",
            _llama_cpp,
            "llama-cpp",
            prepare=lambda models, name: conversions.gguf(models / name, "f32"),
        ),
        Contender(
            "llama.cpp-q8",
            "llama.cpp Q8_0",
            "int8",
            _llama_cpp,
            "llama-cpp",
            prepare=lambda models, name: conversions.gguf(models / name, "q8_0"),
        ),
    )
}
