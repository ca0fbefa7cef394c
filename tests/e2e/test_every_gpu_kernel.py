"""Every kernel of a GPU that a model of ours reaches is launched by some request over HTTP, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from engine.demo_model import PATH
from kernels.registry import ops, providers

ROOT = Path(__file__).parents[2]
NO_MODEL_YET = {"layer_norm", "gelu_and_mul"}
"""Ops that come with the models that need them."""
SHARED = {
    "vocab_size": 1536, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "eos_token_id": 2, "torch_dtype": "float32",
}  # fmt: skip
MODELS = {
    # A product with more inputs than are summed at once.
    "Mistral": {"intermediate_size": 544, "sliding_window": 9},
    "Qwen3": {"intermediate_size": 32},
}
ONE_OF = {"choice": ["A", "B"]}
CHAT = {"messages": [{"role": "user", "content": "A or B?"}], "temperature": 0, "structured_outputs": ONE_OF}
SAMPLED = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 1, "max_tokens": 2}
TEXT = {"prompt": "one two three", "echo": True, "logprobs": 1, **SAMPLED}
"""The whole prompt is scored, which otherwise ends as single rows in the one layer that there is."""


@pytest.fixture
def model(tmp_path):
    """A folder with a shape of that architecture and the demo model's tokenizer; weights are drawn at start."""

    def make(architecture: str) -> Path:
        folder = tmp_path / architecture
        shutil.copytree(PATH, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "__pycache__"))
        names = {"architectures": [f"{architecture}ForCausalLM"], "model_type": architecture.lower()}
        (folder / "config.json").write_text(json.dumps({**SHARED, **names, **MODELS[architecture]}))
        return folder

    return make


def reachable():
    """(provider and op, kernels): all there are but for those that no model selects yet."""
    found = {
        f"{provider.name} {op.name}"
        for op in ops()
        for provider in providers(op.name)
        if provider.name.startswith("triton") and op.name not in NO_MODEL_YET
    }
    table = (ROOT / "docs/benchmarks/gpu-compiled.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in table if line.startswith("| ") and not line.startswith(("| op ", "| --- "))]
    return found, {kernel for op, kernel, *_ in rows if op.removeprefix("| ") not in NO_MODEL_YET}


def test_no_model_selects_the_ops_that_are_left_out():
    """Otherwise they would have to be reached below."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "engine").rglob("*.py")]
    assert not [op for op in NO_MODEL_YET if any(op in source for source in sources)]


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="there is no Triton for this system")
def test_every_kernel_is_launched_by_some_request(start_server, model, tmp_path, monkeypatch):
    launched = tmp_path / "launched"
    launched.touch()
    path = [str(Path(__file__).parent / "triton_engine"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("LAUNCHED", str(launched))
    shared = ("--load-format", "dummy", "--num-threads", "1", "--max-model-len", "128", "--kv-cache-memory", "1MiB")
    servers = (
        ("Mistral", ("--quantization", "int4"), {"chat/completions": CHAT, "completions": TEXT}),
        # Its dense products and its attention are others, and so is what its cache holds.
        ("Qwen3", ("--deterministic", "--kv-cache-dtype", "fp8"), {"completions": TEXT}),
    )
    for architecture, settings, requests in servers:
        arguments = (str(model(architecture)), "--served-model-name", "tiny", *shared, *settings)
        with start_server(*arguments, ready_timeout=200) as server, server.client(timeout=200) as client:
            for route, body in requests.items():
                answer = client.post(f"/{route}", body={"model": "tiny", **body}, cast_to=dict)
                (choice,) = answer["choices"]
                assert choice["finish_reason"] in ("length", "stop")
                if "structured_outputs" in body:
                    assert choice["message"]["content"] in ONE_OF["choice"]
    told = launched.read_text(encoding="utf-8").splitlines()
    wanted, kernels = reachable()
    assert wanted <= set(told)
    assert kernels <= {line.removeprefix("kernel ") for line in told if line.startswith("kernel ")}
