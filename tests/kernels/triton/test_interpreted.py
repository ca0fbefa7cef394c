"""Every Triton provider against its op's reference, in Triton's interpreter: no GPU is needed."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.registry import Machine, ops, providers

OPS = [op.name for op in ops() if any(provider.name == "triton" for provider in providers(op.name))]
LONG = ["paged_attention", "linear", "sample_tokens"]
"""Those that take long, each in a process of its own."""
RUNS = {name: [name] for name in LONG} | {"others": [name for name in OPS if name not in LONG]}
linux = pytest.mark.skipif(platform.system() != "Linux", reason="there is no Triton for this system")


def interpret(names: list[str]) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("interpret.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(
        [sys.executable, script, *names], env=environment, capture_output=True, text=True, timeout=560
    )


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Two at once, as the interpreter uses one core."""
    with ThreadPoolExecutor(2) as pool:
        yield {run: pool.submit(interpret, names) for run, names in RUNS.items()}
        pool.shutdown(cancel_futures=True)


@linux
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", RUNS)
def test_triton_providers_agree_with_the_references(
    runs: dict[str, Future[subprocess.CompletedProcess[str]]], run: str
) -> None:
    done = runs[run].result()
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@linux
def test_a_gpu_takes_them_and_a_cpu_does_not() -> None:
    gpu, cpu = Machine("cuda", "sm_90", "", 1), Machine("cpu", "AVX2", "", 2)
    for name in OPS:
        (provider,) = (provider for provider in providers(name) if provider.name == "triton")
        assert provider.supported(gpu)
        assert not provider.supported(cpu)
