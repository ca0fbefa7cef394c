"""The Triton kernels compiled ahead of time for GPUs, with limits on what they take of them."""

import json
import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import json
import torch
from kernels.registry import ops
from scripts.compile_kernels import compile_for, first_of_each, launches
narrow = {op.name for op in ops() if torch.bfloat16 in op.tolerances}
found = []
for launch in first_of_each(launches()):
    if launch.dtype == ("bfloat16" if launch.op in narrow else "float32"):
        found += [compile_for(launch, target) for target in launch.targets]
print(json.dumps(found))
"""
REGISTERS = {"attend": 232, "attend_split": 168, "multiply": 232, "multiply_split": 200}
"""Of a thread at most; the kernels not named here 128."""
SHARED = {"multiply": 96 << 10, "multiply_split": 96 << 10}
"""Bytes of a program at most; the kernels not named here 48 KiB, what every GPU gives without being asked for more."""


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="there is no Triton for this system")
def test_every_kernel_compiles_for_every_target_within_limits() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {kernel for _, kernel, *_ in found} >= {
        "attend",
        "attend_split",
        "multiply",
        "multiply_split",
        "sample_tokens",
    }
    assert {target for _, _, _, target, *_ in found} == {"sm_80", "sm_90", "gfx942"}
    for op, kernel, dtype, target, registers, shared, spills in found:
        name = f"{op}: {kernel} {dtype} for {target}"
        assert registers <= REGISTERS.get(kernel, 128), f"{name} takes {registers} registers"
        assert shared <= SHARED.get(kernel, 48 << 10), f"{name} takes {shared} bytes of shared memory"
        assert not spills, f"{name} spills {spills} registers or bytes"
