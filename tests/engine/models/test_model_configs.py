"""What a config.json asks for is built or refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine.models
from engine.errors import ModelError
from engine.layers.base import LayerContext
from engine.models import architectures, build_model
from engine.models.hf_config import HFConfig
from engine.models.llama_family import qwen_sliding_windows
from kernels.registry import Kernels, Machine

CPU = torch.device("cpu")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def build(**fields):
    context = LayerContext(
        kernels=Kernels(Machine.detect(CPU)),
        device=CPU,
        dtype=torch.float32,
        weight_dtype=torch.float32,
        cache_dtype=torch.float32,
        block_size=16,
        max_model_len=None,
    )
    return build_model(HFConfig(LLAMA | fields, "config.json"), context)


def refused(**fields) -> str:
    with pytest.raises(ModelError) as caught:
        build(**fields)
    return str(caught.value)


def names(model):
    return {slot.name for layer in model.layers() for slot in layer.weights()}


def test_the_four_architectures():
    assert set(architectures()) >= {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    message = refused(architectures=["MambaForCausalLM"])
    assert "MambaForCausalLM is not supported; supported are LlamaForCausalLM, MistralForCausalLM" in message
    assert "architecture none is not supported" in refused(architectures=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("partial_rotary_factor", 0.5),
        ("final_logit_softcapping", 30.0),
        ("num_local_experts", 8),
    ],
)
def test_a_field_that_changes_the_mathematics_is_refused_by_name(field, value):
    message = refused(**{field: value})
    assert message.startswith(f"config.json: {field} is ")
    assert message.endswith("which is not supported")


def test_such_a_field_at_its_no_op_value_is_accepted():
    build(hidden_act="silu", quantization_config=None, partial_rotary_factor=1.0, final_logit_softcapping=None)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("hidden_size", None, "is missing"),
        ("hidden_size", "16", "must be of type int, not '16'"),
        ("hidden_size", 16.0, "must be of type int, not 16.0"),
        ("num_hidden_layers", 0, "must be at least 1, not 0"),
        ("tie_word_embeddings", 1, "must be of type bool, not 1"),
        ("num_key_value_heads", 3, "num_attention_heads (4) must be a multiple of num_key_value_heads (3)"),
        ("head_dim", 5, "rotary embeddings need an even head_dim, not 5"),
        ("rope_scaling", [2.0], "must be an object, not [2.0]"),
        ("rope_scaling", {"type": "linear"}, "factor is missing"),
        ("rope_scaling", {"type": "longrope"}, "rope_type is 'longrope', which is not supported"),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "mrope_section": [1]}, "mrope_section"),
        ("rope_parameters", {"full_attention": {"rope_type": "default"}}, "full_attention"),
        ("rope_parameters", {"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_bad_fields_are_named(field, value, problem):
    assert problem in refused(**{field: value})


def test_the_weights_follow_the_config():
    plain = names(build())
    assert "lm_head.weight" in plain
    assert not any(name.endswith(".bias") for name in plain)
    assert "lm_head.weight" not in names(build(tie_word_embeddings=True))
    attention = names(build(attention_bias=True)) - plain
    assert {name.split(".")[-2] for name in attention} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {name.split(".")[-2] for name in names(build(mlp_bias=True)) - plain} == {
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    qwen2 = names(build(architectures=["Qwen2ForCausalLM"], num_key_value_heads=2)) - plain
    assert {name.split(".")[-2] for name in qwen2} == {"q_proj", "k_proj", "v_proj"}
    qwen3 = names(build(architectures=["Qwen3ForCausalLM"], num_key_value_heads=2)) - plain
    assert {name.split(".")[-2] for name in qwen3} == {"q_norm", "k_norm"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, None)),
        ({"sliding_window": 8, "max_window_layers": 0}, (None, None)),
        ({"use_sliding_window": True, "max_window_layers": 1}, (None, 4096)),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, (None, None)),
        ({"use_sliding_window": True, "sliding_window": 8}, (None, None)),
        (
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
            (8, None),
        ),
    ],
)
def test_qwen_sliding_windows_as_transformers_reads_them(fields, expected):
    from transformers import Qwen2Config

    assert qwen_sliding_windows(HFConfig({"num_hidden_layers": 2} | fields, "config.json")) == expected
    theirs = Qwen2Config(num_hidden_layers=2, **fields)
    windows = tuple(theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types)
    assert windows == expected


def test_layer_types_that_do_not_fit():
    fields = {"num_hidden_layers": 2, "use_sliding_window": True, "layer_types": ["full_attention"]}
    with pytest.raises(ModelError, match="for 2 layers"):
        qwen_sliding_windows(HFConfig(fields, "config.json"))


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, 64),
        ({"type": "linear", "factor": 4.0}, 64),
        ({"type": "dynamic", "factor": 4.0}, 256),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"type": "yarn", "factor": 4.0}, 256),
    ],
)
def test_the_longest_context_follows_the_scaling(rope, expected):
    assert build(rope_scaling=rope).max_model_len == expected


def test_config_files_that_are_none(tmp_path):
    with pytest.raises(ModelError, match="not a Hugging Face model folder"):
        HFConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        HFConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        HFConfig.read(tmp_path)


def test_a_model_is_added_by_adding_a_file(tmp_path, monkeypatch):
    (tmp_path / "extra_architecture.py").write_text(
        "ARCHITECTURES = ('ExtraForCausalLM',)\n\ndef build(config, context):\n    return 'an extra model'\n"
    )
    monkeypatch.setattr(engine.models, "__path__", [*engine.models.__path__, str(tmp_path)])
    assert build(architectures=["ExtraForCausalLM"]) == "an extra model"
    sys.modules.pop("engine.models.extra_architecture")


def test_the_worker_does_not_import_transformers():
    code = "import sys, json, engine.worker.worker; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    root = Path(engine.models.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "transformers" not in json.loads(done.stdout)
