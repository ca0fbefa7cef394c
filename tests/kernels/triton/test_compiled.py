"""The Triton kernels compiled ahead of time for GPUs, with limits on what they take of them."""

import json
import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import json
import sys
import torch
from kernels.registry import ops
from scripts.compile_kernels import compile_for, first_of_each, launches
narrow = {op.name for op in ops() if torch.bfloat16 in op.tolerances}
found, number = [], 0
for launch in first_of_each(launches()):
    form = launch.constants.get("FORMAT", "")
    # What a cache of 8 bits adds to attention does not depend on what else is fused.
    again = form in ("e4m3", "int8") and not launch.options.get("enable_fp_fusion", True)
    if launch.dtype == ("bfloat16" if launch.op in narrow else "float32") and not again:
        for target in launch.targets:
            number += 1
            if number % 2 == int(sys.argv[1]):
                found.append([*compile_for(launch, target), form])
print(json.dumps(found))
"""
"""Every second kernel, from that argument on: two processes take as long as one core needs for half of them."""
REGISTERS = {"attend": 232, "attend_split": 168, "multiply": 232, "multiply_split": 200}
"""Of a thread at most; the kernels not named here 128."""
SHARED = {"multiply": 96 << 10, "multiply_split": 96 << 10}
"""Bytes of a program at most; the kernels not named here 48 KiB, what every GPU gives without being asked for more."""


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="there is no Triton for this system")
def test_every_kernel_compiles_for_every_target_within_limits() -> None:
    environment = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, half],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for half in ("0", "1")
    ]
    found = []
    try:
        for process in running:
            told, complaints = process.communicate(timeout=280)
            assert process.returncode == 0, complaints[-3000:]
            found += json.loads(told)
    finally:
        for process in running:
            process.kill()
    assert {kernel for _, kernel, *_ in found} >= {
        "attend",
        "attend_split",
        "multiply",
        "multiply_split",
        "sample_tokens",
    }
    assert {target for _, _, _, target, *_ in found} == {"sm_80", "sm_90", "gfx942"}
    for kernel in ("attend", "attend_split", "rope_and_cache"):
        forms = [(each[3], each[-1]) for each in found if each[1] == kernel]
        assert {(target, form) for target in ("sm_80", "sm_90", "gfx942") for form in ("", "e4m3", "int8")} <= {*forms}
    for op, kernel, dtype, target, registers, shared, spills, form in found:
        name = f"{op}: {kernel} {dtype} {form} for {target}"
        assert registers <= REGISTERS.get(kernel, 128), f"{name} takes {registers} registers"
        assert shared <= SHARED.get(kernel, 48 << 10), f"{name} takes {shared} bytes of shared memory"
        assert not spills, f"{name} spills {spills} registers or bytes"
