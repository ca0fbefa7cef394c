"""Compiles the Triton kernels ahead of time, for GPUs that this machine need not have.

    python -m scripts.compile_kernels --out docs/benchmarks/gpu-compiled.md

Every provider in Triton is called with the examples of its op; instead of a launch its kernels are compiled for each
target, with the types of the arguments. Registers, shared memory and spills are those that NVIDIA's assembler and the
text of AMD's report: Triton itself knows them only of a device.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from kernels.registry import ops, providers

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}


OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
"""Of a launch, that are the compiler's."""


class Launch(NamedTuple):
    """A kernel and what decides how it is compiled."""

    op: str
    dtype: str
    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: frozenset[str]
    """Pointers to a multiple of 16 bytes, and numbers that are multiples of 16."""
    options: dict[str, Any]
    """Warps, stages of a pipeline and whether multiplications and additions are fused, where the launch says so."""
    amd: bool
    """Whether it is what is launched on AMD's GPUs."""

    @property
    def key(self) -> str:
        options = (self.options, self.amd)
        return repr((self.kernel.fn.__name__, self.signature, self.constants, sorted(self.aligned), options))

    @property
    def targets(self) -> list[str]:
        return [name for name in TARGETS if name.startswith("gfx") == self.amd]


class Compiled(NamedTuple):
    """What one kernel takes: registers of a thread, bytes of shared memory of a program, bytes or registers spilled."""

    op: str
    kernel: str
    dtype: str
    target: str
    registers: int
    shared: int
    spills: int


def launches(only: Sequence[str] = ()) -> Iterator[Launch]:
    """Every different one that the examples of the ops, or only of some, lead to."""
    seen: set[str] = set()
    for op in ops():
        for provider in providers(op.name):
            if not provider.name.startswith("triton") or (only and op.name not in only):
                continue
            implementation = provider.load()
            for dtype in op.tolerances:
                for example in op.examples(dtype, torch.Generator().manual_seed(0)):
                    if not provider.accepts(example.spec):
                        continue
                    for launch in _launches(op, str(dtype).removeprefix("torch."), implementation, example):
                        if launch.key not in seen:
                            seen.add(launch.key)
                            yield launch


def first_of_each(found: Iterable[Launch]) -> Iterator[Launch]:
    """Of the launches that differ in their sizes alone, or in how these divide, one: the first."""
    seen: set[tuple[Any, ...]] = set()
    for launch in found:
        kind = (launch.constants.get("FORMAT"), launch.options.get("enable_fp_fusion"))
        key = (launch.op, launch.kernel.fn.__name__, launch.dtype, launch.amd, *kind)
        if key not in seen:
            seen.add(key)
            yield launch


def _launches(op: Any, dtype: str, implementation: Any, example: Any) -> Iterator[Launch]:
    """Those of one call, for each maker of GPUs."""
    maker = torch.version.hip
    for amd in (False, True):
        torch.version.hip = "pretended" if amd else None
        try:
            calls = _recorded(op, implementation, example)
        finally:
            torch.version.hip = maker
        for kernel, arguments, options in calls:
            yield _launch(op.name, dtype, kernel, arguments, options, amd)


def _recorded(op: Any, implementation: Any, example: Any) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """The launches of one call, none of which takes place."""
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(kernel: Any, *arguments: Any, **options: Any) -> None:
        calls.append((kernel, arguments, {k: v for k, v in options.items() if k not in ("grid", "warmup")}))

    run, JITFunction.run = JITFunction.run, record  # type: ignore[method-assign]
    try:
        op.run(implementation, *example.arguments, **example.options)
    finally:
        JITFunction.run = run  # type: ignore[method-assign]
    return calls


def _launch(op: str, dtype: str, kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any], amd: bool) -> Launch:
    compiled_with = {name: options.pop(name) for name in OPTIONS if name in options}
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | options
    fixed = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    # As at a launch: a stride of 1 is a constant, and multiples of 16 are known to be that.
    fixed |= {name for name, value in values.items() if isinstance(value, int) and value == 1}
    constants = {name: value for name, value in values.items() if name in fixed}
    signature = {name: "constexpr" if name in fixed else _type(value) for name, value in values.items()}
    # Of a torch allocation; a view of another one may begin anywhere.
    aligned = frozenset(name for name, v in values.items() if name not in fixed and _is_aligned(v))
    ordered = {name: signature[name] for name in kernel.arg_names}
    return Launch(op, dtype, kernel, ordered, constants, aligned, compiled_with, amd)


def _is_aligned(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.storage_offset() == 0
    return isinstance(value, int) and value % 16 == 0


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def compile_for(launch: Launch, target: str) -> Compiled:
    """Raises what Triton raises where the kernel cannot be compiled."""
    at = {name: index for index, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        fn=launch.kernel,
        signature=launch.signature,
        constexprs={(at[name],): value for name, value in launch.constants.items()},
        attrs={(at[name],): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    options = {"num_warps": 4, **launch.options}
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    if target.startswith("gfx"):
        registers, spills = _read_amdgcn(compiled.asm["amdgcn"])
    else:
        registers, spills = _assemble(compiled.asm["ptx"], target)
    shared = compiled.metadata.shared
    return Compiled(launch.op, launch.kernel.fn.__name__, launch.dtype, target, registers, shared, spills)


def _assemble(ptx: str, target: str) -> tuple[int, int]:
    """(registers, bytes spilled) by the assembler that comes with Triton, or the one for newer GPUs beside it, which
    some versions have for all that is newer than sm_80."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    architecture = re.search(r"^\.target (\S+?)(?:,|$)", ptx, re.MULTILINE)
    assert architecture is not None
    complaints = ""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.ptx"
        path.write_text(ptx)
        for assembler in sorted(folder.glob("ptxas*")):
            command = [assembler, "-v", f"--gpu-name={architecture[1]}", path, "-o", Path(scratch) / "kernel.cubin"]
            done = subprocess.run(command, capture_output=True, text=True)
            used = re.search(r"Used (\d+) registers", done.stderr)
            if used is not None:
                spilled = re.search(r"(\d+) bytes spill stores", done.stderr)
                return int(used[1]), int(spilled[1]) if spilled else 0
            complaints += done.stdout + done.stderr
    raise RuntimeError(f"no assembler took the code for {target}: {complaints}")


def _read_amdgcn(text: str) -> tuple[int, int]:
    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        assert found is not None, name
        return int(found[1])

    return number("vgpr_count"), number("vgpr_spill_count") + number("sgpr_spill_count")


def worst(compiled: Sequence[Compiled]) -> list[Compiled]:
    """For each kernel, dtype and target the most of everything."""
    groups: dict[tuple[str, str, str, str], list[Compiled]] = {}
    for each in compiled:
        groups.setdefault((each.op, each.kernel, each.dtype, each.target), []).append(each)
    return [
        Compiled(*key, *(max(values) for values in zip(*(each[4:] for each in group), strict=True)))
        for key, group in sorted(groups.items())
    ]


def table(compiled: Sequence[Compiled]) -> str:
    lines = [
        "| op | kernel | dtype | target | registers | shared memory, bytes | spills |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(map(str, each)) + " |" for each in compiled]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--ops", nargs="+", default=[], help="only these")
    parser.add_argument(
        "--first", action="store_true", help="one example of each kernel and dtype, not the worst of all"
    )
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    options = parser.parse_args(arguments)
    compiled = []
    found = launches(options.ops)
    for launch in first_of_each(found) if options.first else found:
        for target in (name for name in launch.targets if name in options.targets):
            compiled.append(compile_for(launch, target))
            print(*compiled[-1], file=sys.stderr)
    called = "scripts.compile_kernels" + " --first" * options.first
    of_which = "the first example" if options.first else "the example that takes most"
    text = (
        "# What the GPU kernels take\n\n"
        f"Written by `python -m {called}` with Triton {triton.__version__};\n"
        f"nothing of it ran on a GPU. For each kernel what {of_which} of its op takes: registers of a thread,\n"
        "shared memory of a program, and bytes (NVIDIA) or registers (AMD) spilled. A kernel of several forms stands\n"
        "here once, with the most that any of them takes.\n\n"
        f"{table(worst(compiled))}\n"
    )
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
