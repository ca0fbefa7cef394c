"""The engine on the kernels of a GPU, in Triton's interpreter."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(platform.system() != "Linux", reason="there is no Triton for this system")
@pytest.mark.slow
def test_it_answers_as_on_the_kernels_of_the_cpu(make_checkpoint):
    """With weights in int4: without a quantization products are PyTorch's, and nothing of Triton's in them is tried."""
    folder = make_checkpoint("Qwen3ForCausalLM", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    script = Path(__file__).with_name("on_triton.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder, "int4"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
