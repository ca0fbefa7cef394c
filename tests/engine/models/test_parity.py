"""Logits equal those of transformers on tiny random checkpoints: chunked, packed and with shared blocks."""

import random

import pytest
import torch
import transformers

from engine.config import EngineConfig
from engine.worker.worker import Worker

ARCHITECTURES = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]

ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn with mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "mscale": 0.7,
        "mscale_all_dim": 1.2,
        "beta_fast": 16.0,
        "truncate": False,
    },
    "yarn with attention factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "attention_factor": 1.3,
        "beta_slow": 2.0,
    },
}

VARIANTS = [
    *[(architecture, {"tie_word_embeddings": tied}) for architecture in ARCHITECTURES for tied in (False, True)],
    *[(architecture, {"num_key_value_heads": heads}) for architecture in ARCHITECTURES for heads in (1, 4)],
    *[(architecture, {"rope_parameters": ROPES[name]}) for architecture in ARCHITECTURES for name in ROPES],
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {"head_dim": 20, "rms_norm_eps": 0.01}),
    ("MistralForCausalLM", {"sliding_window": 9}),
    ("MistralForCausalLM", {"sliding_window": None}),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    ("Qwen3ForCausalLM", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}),
    ("Qwen3ForCausalLM", {"attention_bias": True, "head_dim": 12}),
    (
        "Qwen2ForCausalLM",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
]


def tokens(count, seed):
    return random.Random(seed).choices(range(3, 160), k=count)


def reference_logits(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.inference_mode():
        return model.eval()(torch.tensor([ids])).logits[0]


def assert_equal_logits(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def case_name(variant):
    return f"{variant[0].removesuffix('ForCausalLM')}-{variant[1]}"[:90]


@pytest.mark.parametrize("variant", VARIANTS, ids=case_name)
def test_logits_chunked_and_packed(variant, make_checkpoint, make_runner):
    """Three sequences in odd chunks, prefill beside decode, on interleaved blocks that are handed out in disorder."""
    architecture, overrides = variant
    folder = make_checkpoint(architecture, **overrides)
    runner = make_runner(folder)
    ids = {name: tokens(length, seed) for seed, (name, length) in enumerate([("a", 61), ("b", 33), ("c", 150)])}
    blocks = random.Random(5).sample(range(256), 200)
    tables = {name: [blocks.pop() for _ in range(-(-len(each) // 4))] for name, each in ids.items()}
    done = dict.fromkeys(ids, 0)
    sizes = random.Random(7)
    while any(done[name] < len(ids[name]) for name in ids):
        chunks = []
        for name, each in ids.items():
            query = min(sizes.choice([1, 1, 3, 7, 29]), len(each) - done[name])
            if query:
                chunks.append((name, each, done[name], query, tables[name]))
                done[name] += query
        runner.step(chunks)
    for name, each in ids.items():
        assert_equal_logits(runner.result(name), reference_logits(folder, each))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_with_a_shared_prefix(architecture, make_checkpoint, make_runner):
    """A second sequence reads the first one's blocks, and both read them at once."""
    folder = make_checkpoint(architecture)
    runner = make_runner(folder)
    prefix = tokens(24, 0)
    first, second = prefix + tokens(10, 1), prefix + tokens(13, 2)
    shared = [9, 2, 30, 17, 5, 11]
    first_table, second_table = [*shared, 40, 41, 42], [*shared, 50, 51, 52, 53]
    runner.step([("first", first, 0, 25, first_table)])
    runner.step([("first", first, 25, 9, first_table), ("second", second, 24, 12, second_table)])
    runner.step([("second", second, 36, 1, second_table)])
    assert_equal_logits(runner.result("first"), reference_logits(folder, first))
    assert_equal_logits(runner.result("second"), reference_logits(folder, second)[24:])


@pytest.mark.parametrize("block_size", [1, 3, 16, 32])
def test_logits_at_any_block_size(block_size, make_checkpoint, make_runner):
    folder = make_checkpoint("Qwen3ForCausalLM")
    runner = make_runner(folder, block_size=block_size)
    ids = tokens(37, 0)
    table = list(range(100, 100 + -(-37 // block_size)))
    runner.step([("a", ids, 0, 20, table)])
    runner.step([("a", ids, 20, 17, table)])
    assert_equal_logits(runner.result("a"), reference_logits(folder, ids))


def test_dynamic_rope_past_the_trained_length_is_what_generation_gives(make_checkpoint, make_runner):
    """transformers rotates each new token for the length it has then; ours does so in a chunked prompt as well."""
    overrides = {"rope_parameters": ROPES["dynamic"], "max_position_embeddings": 32}
    folder = make_checkpoint("LlamaForCausalLM", **overrides)
    runner = make_runner(folder)
    assert runner.facts.max_model_len == 64
    ids = tokens(50, 0)
    runner.step([("a", ids, 0, 40, list(range(13)))])
    runner.step([("a", ids, 40, 10, list(range(13)))])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        output = model(torch.tensor([ids[:32]]), use_cache=True)
        expected = [output.logits[0]]
        for token in ids[32:]:
            output = model(torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
            expected.append(output.logits[0])
    assert_equal_logits(runner.result("a"), torch.cat(expected))


def test_old_and_new_names_of_rope_fields_mean_the_same(make_checkpoint, make_runner, tmp_path):
    import json
    import shutil

    folder = make_checkpoint("LlamaForCausalLM", rope_parameters=ROPES["llama3"])
    old = shutil.copytree(folder, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters
    config["torch_dtype"] = config.pop("dtype", "float32")
    (old / "config.json").write_text(json.dumps(config))
    ids = tokens(40, 0)
    results = []
    for each in (folder, old):
        runner = make_runner(each)
        runner.step([("a", ids, 0, 40, list(range(10)))])
        results.append(runner.result("a"))
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights_stay_16_bit_and_come_close(dtype, make_checkpoint, make_runner):
    folder = make_checkpoint("Qwen3ForCausalLM", dtype=dtype, initializer_range=0.05)
    runner = make_runner(folder)
    assert runner.facts.dtype == dtype
    assert 2 * runner.facts.parameters <= runner.facts.weight_bytes < 2.1 * runner.facts.parameters  # Some padding.
    assert {tensor.dtype for layer in runner.worker._cache.layers for tensor in layer[:2]} == {getattr(torch, dtype)}
    ids = tokens(40, 0)
    runner.step([("a", ids, 0, 30, list(range(10)))])
    runner.step([("a", ids, 30, 10, list(range(10)))])
    torch.testing.assert_close(runner.result("a"), reference_logits(folder, ids), atol=0.1, rtol=0.1)


def test_dtype_can_be_asked_for(make_checkpoint):
    folder = make_checkpoint("LlamaForCausalLM", dtype="bfloat16")
    worker = Worker(EngineConfig(model=str(folder), dtype="float32", num_threads=1), lambda *_: None)
    facts = worker.load()
    assert (facts.dtype, facts.weight_bytes) == ("float32", 4 * facts.parameters)
