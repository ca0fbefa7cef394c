"""What is installed, and how it lives beside Hugging Face's distribution that is also imported as ``kernels``."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from gateway.version import VERSION
from kernels.providers.cpu import variants

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TAKEN = {"backends", "layer", "cli", "load", "compat", "deps", "benchmark"}
"""Modules of Hugging Face's ``kernels``."""


def test_kernels_is_a_namespace() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    names = {path.stem for path in (ROOT / "kernels").iterdir()}
    assert "registry" in names
    assert names & TAKEN == set()


def test_no_tests_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_the_version_is_not_one_that_transformers_takes_for_another_package() -> None:
    assert not Version("0.18.2") <= Version(VERSION) < Version("0.19")
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.version.VERSION"}


def test_transformers_works_from_the_root_of_a_checkout() -> None:
    code = "from transformers import LlamaForCausalLM; import kernels.registry; print(kernels.registry.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == ROOT / "kernels" / "registry.py"


def test_the_torch_requirement_admits_what_is_tested_and_nothing_newer() -> None:
    requirements = {Requirement(line).name: Requirement(line) for line in PROJECT["project"]["dependencies"]}
    admitted = [version for version in ("2.10.0", "2.11.0", "2.13.0", "2.13.0+cpu", "2.14.0")
                if requirements["torch"].specifier.contains(version)]  # fmt: skip
    assert admitted == ["2.11.0", "2.13.0", "2.13.0+cpu"]


def test_the_dependencies_are_what_is_imported() -> None:
    names = {"pyyaml": "yaml", "pyzmq": "zmq"}
    declared = {Requirement(line).name for line in PROJECT["project"]["dependencies"]}
    # Of fastapi-offline only files are read.
    modules = {names.get(name, name.replace("-", "_")) for name in declared - {"fastapi-offline"}}
    ours = {"gateway", "engine", "kernels", "observability"}
    imported = {
        name
        for room in ours
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _top_level(node)
    }
    # What fastapi and pydantic are made of, and pin themselves; triton comes with a torch that has CUDA, and
    # opentelemetry with the extra that is needed for it.
    foundations = {"starlette", "pydantic_core", "triton", "opentelemetry"}
    assert imported - ours - foundations - sys.stdlib_module_names == modules


def _top_level(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [str(node.module).partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


@pytest.fixture(scope="session")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a copy of what git tracks or would, so that nothing left lying about changes the result."""
    folder = tmp_path_factory.mktemp("sources")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = folder / "copy" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=folder / "copy", check=True, capture_output=True)
    return next(folder.glob("penstock-*.tar.gz"))


def build_wheel(source_distribution: Path, folder: Path, compiler: str) -> Path:
    """From the source distribution alone, with what the script ``compiler`` does as the C compiler."""
    script = folder / "cc"
    script.write_text(f"#!/bin/sh\n{compiler}\n")
    script.chmod(0o755)
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    environment = os.environ | {"CC": str(script)}
    subprocess.run(
        [sys.executable, "-m", *command, str(source_distribution)], env=environment, check=True, capture_output=True
    )
    return next(folder.glob("penstock-*.whl"))


@pytest.fixture(scope="session")
def wheel(source_distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """As it is installed, but for the optimisation of the kernels, which takes a while."""
    return zipfile.ZipFile(build_wheel(source_distribution, tmp_path_factory.mktemp("wheel"), 'exec cc "$@" -O0'))


def compute_with(wheel: Path, folder: Path) -> str:
    """What a process says that computes with the unpacked wheel, far from any checkout: provider, variant, log."""
    zipfile.ZipFile(wheel).extractall(folder)
    code = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout, format="%(message)s", level="INFO")
logging.getLogger("kernels").setLevel("DEBUG")
from kernels.ops.rms_norm import OP, RMSNormSpec
from kernels.providers.cpu import variants
from kernels.registry import Kernels, Machine
kernels = Kernels(Machine.detect(torch.device("cpu")))
x, weight = torch.randn(3, 40), torch.randn(40)
for _ in range(2):
    norm = kernels.select(OP, RMSNormSpec(40, torch.float32))
    torch.testing.assert_close(norm(x, weight, 1e-6)[0], OP.reference(x, weight, 1e-6)[0])
print(kernels.chosen["rms_norm"], variants.FOLDER.is_relative_to(sys.argv[1]))
"""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


def test_the_source_distribution_has_the_kernels(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(path.relative_to(ROOT)) for path in variants.SOURCES.glob("*.[ch]")} < packed


def test_the_wheel_has_the_kernels_and_computes_with_them(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    kernels = {name for name in wheel.namelist() if name.startswith("kernels/providers/cpu/") and ".py" not in name}
    assert kernels == {f"kernels/providers/cpu/{variant.file}" for variant in variants.builds()}
    assert "-py3-none-" in str(wheel.filename)
    variant = variants.choose(torch.backends.cpu.get_cpu_capability())
    assert compute_with(Path(str(wheel.filename)), tmp_path).splitlines() == [
        f"the kernels are the {variant.name} build",
        "cpu True",
    ]


def test_without_a_compiler_torch_computes_and_that_is_said_once(source_distribution: Path, tmp_path: Path) -> None:
    wheel = build_wheel(source_distribution, tmp_path, "exit 1")
    said, chosen = compute_with(wheel, tmp_path / "installed").splitlines()
    assert re.fullmatch("torch computes in place of the compiled kernels.* install a C compiler, .*", said)
    assert chosen == "torch True"


def test_the_wheel_has_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    rooms = ("gateway", "engine", "kernels", "observability")
    packed = {name for name in wheel.namelist() if name.endswith(".py")}
    assert packed == {str(path.relative_to(ROOT)) for room in rooms for path in (ROOT / room).rglob("*.py")}


@pytest.mark.parametrize(
    "name",
    [
        "gateway/static/index.html",
        "engine/demo_model/config.json",
        "engine/demo_model/tokenizer.json",
        "engine/demo_model/chat_template.jinja",
        "engine/demo_model/model.safetensors",
        "gateway/py.typed",
    ],
)
def test_the_wheel_has_its_data(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_the_wheel_is_small_and_carries_its_licence(wheel: zipfile.ZipFile) -> None:
    assert sum(item.compress_size for item in wheel.infolist()) < 20 * 2**20
    (licence,) = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert "Apache License" in wheel.read(licence).decode()
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "penstock = gateway.cli:main" in wheel.read(entry).decode()
