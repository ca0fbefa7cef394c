"""Tensor and pipeline parallel ranks, real processes, say bit for bit what a single rank says."""

import msgspec
import pytest

from kernels.providers.cpu import loader

ODD = {"hidden_size": 64, "intermediate_size": 90, "vocab_size": 163, "num_attention_heads": 8}
"""Sizes that four ranks cannot share evenly, but for the heads."""
MODELS = {
    "llama": ("LlamaForCausalLM", ODD, {}),
    "mistral": ("MistralForCausalLM", ODD | {"sliding_window": 21}, {}),
    "qwen2": ("Qwen2ForCausalLM", ODD | {"tie_word_embeddings": True, "dtype": "bfloat16"}, {}),
    "qwen3": ("Qwen3ForCausalLM", ODD | {"head_dim": 16, "tie_word_embeddings": True}, {}),
    "int8": ("LlamaForCausalLM", ODD, {"quantization": "int8"}),
    "int4": ("Qwen3ForCausalLM", ODD | {"head_dim": 16, "intermediate_size": 96}, {"quantization": "int4"}),
}
LAYOUTS = [(2, 1), (4, 1), (1, 2), (1, 3), (2, 2)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def load(make_checkpoint):
    def load(ranks, name, **others):
        architecture, overrides, config = MODELS[name]
        ranks.load(make_checkpoint(architecture, **overrides), **({"quantization": "none"} | config | others))

    return load


@pytest.fixture(scope="module")
def expected(run_ranks, load):
    """What one rank says of each model, and its facts."""
    assert loader.available(), "without the compiled kernels products depend on their size"
    found = {}
    with run_ranks() as ranks:
        for name in MODELS:
            load(ranks, name)
            found[name] = ranks.generate(), ranks.facts
    return found


@pytest.mark.parametrize(("tensor", "stages"), LAYOUTS)
def test_the_same_tokens_and_logprobs(run_ranks, load, expected, tensor, stages):
    with run_ranks(tensor_parallel_size=tensor, pipeline_parallel_size=stages) as ranks:
        for name, (said, facts) in expected.items():
            load(ranks, name)
            assert ranks.facts.fingerprint == facts.fingerprint, name
            assert ranks.facts.parameters == facts.parameters, name
            assert ranks.generate() == said, name


def test_partial_sums_say_nearly_the_same_and_that_in_any_batch(run_ranks, load, expected):
    with run_ranks(tensor_parallel_size=2, tp_reduce="allreduce") as ranks:
        for name in ("qwen2", "int8", "int4"):
            said, facts = expected[name]
            load(ranks, name)
            assert ranks.facts.fingerprint != facts.fingerprint
            found = ranks.generate()
            one, other = found.prompt_logprobs["2"], said.prompt_logprobs["2"]
            differences = [abs(a.logprob - b.logprob) for a, b in zip(one, other, strict=True)]
            # In int8 a part of a row has a scale of its own.
            assert 0 < max(differences) < (0.2 if name == "int8" else 1e-3)
        ranks.config = msgspec.structs.replace(ranks.config, max_num_batched_tokens=7)
        assert ranks.generate() == found
